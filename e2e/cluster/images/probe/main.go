// Command probe is the smallest pod that can show a cluster works: a server that says who it is and where it was reached, and
// a client for it that needs no shell.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

const usage = `usage: probe serve ADDRESS     answer every request with the host's name and the address it came to
       probe get URL [4|6]     print what URL answers, over IPv4 or IPv6 only where that is said
       probe wait              sleep until told to stop`

// patience is how long one request may take; a cluster on one machine answers in milliseconds or not at all.
const patience = 5 * time.Second

func main() {
	var err error
	switch args := os.Args[1:]; {
	case len(args) == 2 && args[0] == "serve":
		err = serve(args[1])
	case len(args) == 2 && args[0] == "get":
		err = get(args[1], "tcp")
	case len(args) == 3 && args[0] == "get" && (args[2] == "4" || args[2] == "6"):
		err = get(args[1], "tcp"+args[2])
	case len(args) == 1 && args[0] == "wait":
		// Not an empty select, which the runtime takes for a deadlock.
		time.Sleep(1<<63 - 1)
	default:
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

func serve(address string) error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	return http.ListenAndServe(address, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s at %v\n", name, r.Context().Value(http.LocalAddrContextKey))
	}))
}

func get(url, network string) error {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DialContext = func(ctx context.Context, _, address string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	client := http.Client{Transport: transport, Timeout: patience}
	answer, err := client.Get(url)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.Copy(os.Stdout, answer.Body); err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", url, answer.Status)
	}
	return nil
}
