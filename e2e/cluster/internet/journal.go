package main

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"regexp"
	"sync"
)

// arrival is a token and the way that it came.
type arrival struct {
	Token string `json:"token"`
	By    string `json:"by"`
	From  string `json:"from"`
}

// journal is everything that has arrived.
type journal struct {
	mutex    sync.Mutex
	arrivals []arrival
}

var token = regexp.MustCompile(`escape-[a-z0-9-]+`)

// note looks for a token in what arrived, and says whether there was one.
func (j *journal) note(by, from string, bytes []byte) bool {
	found := token.Find(bytes)
	if found == nil {
		return false
	}
	j.mutex.Lock()
	defer j.mutex.Unlock()
	j.arrivals = append(j.arrivals, arrival{Token: string(found), By: by, From: from})
	return true
}

// tell answers with the whole of it.
func (j *journal) tell(at netip.AddrPort) error {
	return http.ListenAndServe(at.String(), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		j.mutex.Lock()
		defer j.mutex.Unlock()
		w.Header().Set("content-type", "application/json")
		// A reader that is gone has nothing to be told.
		_ = json.NewEncoder(w).Encode(append([]arrival{}, j.arrivals...))
	}))
}
