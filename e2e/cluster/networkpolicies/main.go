// Enforces NetworkPolicies on the node while it runs: the rules are judged by sigs.k8s.io/kube-network-policies, which sees the first
// packet of every connection from or to a pod. It leads packets to itself by nftables' `queue`; where the kernel has none, the older
// target NFQUEUE does the same, so both are set up here. Once this program is gone, everything passes again.
package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"syscall"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/kube-network-policies/pkg/networkpolicy"
)

const (
	// Table of our own.
	table = "policies"
	// Number of the queue, ours and theirs.
	queue = 100
)

// How the target is told (linux/netfilter/xt_NFQUEUE.h, struct xt_NFQ_info_v3).
var toQueue = expr.Target{Name: "NFQUEUE", Rev: 3, Info: infoOf(queue, 1, 1)}

func infoOf(number, total, flags uint16) *xt.Unknown {
	info := xt.Unknown{}
	for _, field := range []uint16{number, total, flags} {
		info = append(info, binaryutil.NativeEndian.PutUint16(field)...)
	}
	return &info
}

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: networkpolicies KUBECONFIG NODE PODS")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, kubeconfig, node, pods string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	core := factory.Core().V1()
	policies := factory.Networking().V1().NetworkPolicies()
	controller, err := networkpolicy.NewController(client, policies, core.Namespaces(), core.Pods(), nil, nil, nil, nil,
		networkpolicy.Config{FailOpen: true, QueueID: queue, NodeName: node})
	if err != nil {
		return err
	}
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), policies.Informer().HasSynced, core.Pods().Informer().HasSynced) {
		return ctx.Err()
	}
	if err := divert(pods); err != nil {
		return fmt.Errorf("connections cannot be led to the queue: %w", err)
	}
	fmt.Println("ready")
	return controller.Run(ctx)
}

// divert leads the first packet of connections from and to pods to the queue, and lets them pass while nobody listens there.
func divert(pods string) error {
	prefix, err := netip.ParsePrefix(pods)
	if err != nil {
		return err
	}
	nft, err := nftables.New()
	if err != nil {
		return err
	}
	ours := nft.AddTable(&nftables.Table{Name: table, Family: nftables.TableFamilyIPv4})
	nft.FlushTable(ours)
	accept := &expr.Verdict{Kind: expr.VerdictAccept}
	known := binaryutil.NativeEndian.PutUint32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED)
	mask := make([]byte, 4)
	for bit := range prefix.Bits() {
		mask[bit/8] |= 0x80 >> (bit % 8)
	}
	address := prefix.Masked().Addr().As4()
	// Of what goes on to pods or away: after Services' addresses have become pods', before sources are changed. And of what pods send to
	// the node itself.
	for name, at := range map[string]nftables.Chain{
		"postrouting": {Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityRef(*nftables.ChainPriorityNATSource - 4)},
		"input":       {Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter},
	} {
		chain := nft.AddChain(&nftables.Chain{Name: name, Table: ours, Type: nftables.ChainTypeFilter, Hooknum: at.Hooknum, Priority: at.Priority})
		rule := func(exprs ...expr.Any) { nft.AddRule(&nftables.Rule{Table: ours, Chain: chain, Exprs: exprs}) }
		// The node's own: probes by the kubelet, the API server.
		rule(&expr.Meta{Key: expr.MetaKeySKUID, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: make([]byte, 4)}, accept)
		rule(
			&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: known, Xor: make([]byte, 4)},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
			accept,
		)
		// Source and destination, as they lie in the header.
		for _, offset := range []uint32{12, 16} {
			rule(
				&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
				&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: address[:]},
				&toQueue,
			)
		}
	}
	return nft.Flush()
}
