// Command pause holds namespaces open: a pod's, as the sandbox's only process, and the whole cluster's, as its first one.
// It sleeps, buries the children that are left to it, and goes when it is told to.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, syscall.SIGCHLD, syscall.SIGINT, syscall.SIGTERM)
	for {
		if got := <-signals; got != syscall.SIGCHLD {
			return
		}
		// One signal may stand for many deaths.
		for {
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
	}
}
