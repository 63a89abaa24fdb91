// Command internet is the world outside: sinks that note by which ways a token has arrived, whatever carried it, and the clients
// that a script cannot be.
package main

import (
	"fmt"
	"net/netip"
	"os"
)

const usage = `usage: internet serve ADDRESS…      note what arrives at these addresses; http://FIRST:9001/heard tells
       internet quic URL BODY       post BODY over HTTP/3, and print what came back`

// The ports of the sinks. Every address also takes ICMP echoes, whose payload is read.
const (
	dnsPort   = 53
	quicPort  = 443
	udpPort   = 9000
	adminPort = 9001
	httpPort  = 80
)

func main() {
	var err error
	switch args := os.Args[1:]; {
	case len(args) > 1 && args[0] == "serve":
		err = serveAll(args[1:])
	case len(args) == 3 && args[0] == "quic":
		err = post(args[1], args[2])
	default:
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "internet:", err)
		os.Exit(1)
	}
}

func serveAll(texts []string) error {
	heard := &journal{}
	failed := make(chan error)
	for index, text := range texts {
		address, err := netip.ParseAddr(text)
		if err != nil {
			return err
		}
		for _, sink := range sinks(address, heard) {
			go func() { failed <- fmt.Errorf("%s at %s: %w", sink.by, address, sink.serve()) }()
		}
		if index == 0 {
			go func() { failed <- heard.tell(netip.AddrPortFrom(address, adminPort)) }()
		}
	}
	return <-failed
}
