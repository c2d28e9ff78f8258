package kind

import (
	"context"
	"net/netip"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/duomesh/duomesh/internal/probe"
	"github.com/duomesh/duomesh/internal/verify"
	"github.com/duomesh/duomesh/kind"
)

// judge watches the pods of the sample in the kernel: who opens connections to them.
type judge struct {
	waypoint string // pod
	probe    *probe.Probe
}

// observe lets the judge watch both versions and their waypoint, to the end of the
// container or spec.
func observe(ctx context.Context, namespace string) *judge {
	GinkgoHelper()
	names := func(label string) []string {
		return strings.Fields(kubectl(ctx, "get", "pods", "-n", namespace, "-l", label, "-o", `jsonpath={range .items[*]}{.metadata.name}{"\n"}{end}`))
	}
	versions, waypoint := names("app=fortio"), names("gateway.networking.k8s.io/gateway-name=waypoint")
	Expect(versions).To(HaveLen(2))
	Expect(waypoint).To(HaveLen(1))
	var targets []probe.Target
	for _, name := range append(versions, waypoint...) {
		w := must(kind.Watch(ctx, client, namespace, name))
		DeferCleanup(w.Close)
		targets = append(targets, verify.Target(w.Handle))
	}
	p := must(probe.Open(ctx, targets, probe.Options{AllowLate: true}))
	DeferCleanup(p.Close)
	return &judge{waypoint: namespace + "/" + waypoint[0], probe: p}
}

// opened counts the connections that came from an address, to the waypoint and to the
// versions themselves.
func (j *judge) opened(ctx context.Context, from netip.Addr) (toWaypoint, around int) {
	GinkgoHelper()
	l := must(j.probe.Ledger(ctx)) // Envoy keeps its connections open: nothing settles
	Expect(l.Lost.Whole()).To(BeTrue(), "what the judge has missed: %v", l.Lost)
	for _, line := range l.Lines {
		switch {
		case line.Role != probe.RolePassive || line.Peer.Addr().Unmap() != from:
		case line.Pod == j.waypoint:
			toWaypoint++
		default:
			around++
		}
	}
	return toWaypoint, around
}

// addressOf is a pod's first address.
func addressOf(ctx context.Context, namespace, pod string) netip.Addr {
	GinkgoHelper()
	return must(netip.ParseAddr(kubectl(ctx, "get", "pod", "-n", namespace, pod, "-o", "jsonpath={.status.podIP}")))
}
