package intent_test

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// here is where the callers of these tests stand.
var here = intent.Place{
	Node: "a", Network: "net", Cluster: "c",
	Locality: intent.Locality{Region: "r", Zone: "z", Subzone: "s"},
}

func addrs(all ...string) []netip.Addr {
	var list []netip.Addr
	for _, a := range all {
		list = append(list, netip.MustParseAddr(a))
	}
	return list
}

// pod is a workload that stands where the callers do.
func pod(name string, addresses ...string) *intent.Workload {
	return &intent.Workload{
		UID: name, Name: name, Namespace: "default", Addresses: addrs(addresses...), Weight: 1,
		Node: here.Node, Network: here.Network, Cluster: here.Cluster, Locality: here.Locality,
	}
}

// but returns a changed copy.
func but[T any](v *T, change func(*T)) *T {
	copied := *v
	change(&copied)
	return &copied
}

func endpoints(all ...*intent.Workload) []intent.Endpoint {
	var list []intent.Endpoint
	for _, w := range all {
		list = append(list, intent.Endpoint{Workload: w})
	}
	return list
}

func tcp(port, target uint16) intent.Port {
	return intent.Port{Port: port, Target: target, Protocol: intent.TCP}
}

func udp(port, target uint16) intent.Port {
	return intent.Port{Port: port, Target: target, Protocol: intent.UDP}
}

// dialled lists the addresses of targets, in order.
func dialled(targets []intent.Target) []string {
	var list []string
	for _, t := range targets {
		list = append(list, t.Addr.String())
	}
	return list
}

func sameList(a, b []string) bool { return slices.Equal(a, b) }

func sprint(list []string) string { return "[" + strings.Join(list, " ") + "]" }
