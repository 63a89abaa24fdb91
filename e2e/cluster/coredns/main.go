// Command coredns is CoreDNS with the plug-ins that the test cluster uses and no others: the stock selection links the client
// libraries of several clouds, and takes many times as long to build.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"

	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/hosts"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/template"
)

// The order is the order in which a query passes the plug-ins, whatever the order in the Corefile.
func init() {
	dnsserver.Directives = []string{"bind", "errors", "ready", "cache", "kubernetes", "hosts", "template", "forward"}
}

func main() {
	coremain.Run()
}
