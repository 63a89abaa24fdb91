// Command order places an order with net/http and a retry loop of its own.
package main

import (
	"encoding/json"
	"io"
	"math"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

type result struct {
	Attempts int     `json:"attempts"`
	Status   *int    `json:"status"`
	Error    *string `json:"error"`
}

func send(client *http.Client, method, url, body string) (int, error) {
	request, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	request.Header.Set("Authorization", "Bearer demo")
	request.Header.Set("Content-Type", "application/json")
	answer, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	_, err = io.Copy(io.Discard, answer.Body)
	return answer.StatusCode, err
}

func main() {
	url, body := os.Args[1], os.Args[2]
	tries, _ := strconv.Atoi(os.Args[3])
	timeout, _ := strconv.ParseFloat(os.Args[4], 64)
	client := &http.Client{Timeout: time.Duration(timeout * float64(time.Second))}
	if len(os.Args) > 5 {
		_, _ = send(client, http.MethodGet, os.Args[5], "")
	}
	var last result
	for attempt := 1; attempt <= tries; attempt++ {
		status, err := send(client, http.MethodPost, url, body)
		if err != nil {
			text := err.Error()
			last = result{attempt, nil, &text}
		} else {
			last = result{attempt, &status, nil}
			if status != http.StatusTooManyRequests && status < 500 {
				break
			}
		}
		if attempt < tries {
			time.Sleep(time.Duration(200*math.Pow(2, float64(attempt-1))) * time.Millisecond)
		}
	}
	_ = json.NewEncoder(os.Stdout).Encode(last)
}
