package kube

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/dataplane/agent/api"
)

// TestPodsThatEndedWhileNoAgentRan: on a host whose pods have no cgroup v2 of their own, and
// of one that was admitted and never started, nothing but the API shows that they are gone.
func TestPodsThatEndedWhileNoAgentRan(t *testing.T) {
	c := newCluster(t)
	c.bpffs = t.TempDir()
	must(t, unix.Mount("none", c.bpffs, "bpf", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(c.bpffs, 0)) })
	elsewhere := newScratch(t)
	c.namespace("shop", "Kmesh")
	r := c.start(c.server.Config)

	gone, stays := c.pod("shop", "gone", nil), c.pod("shop", "stays", nil)
	ends := elsewhere.pod(string(gone.UID), newNetns(t))
	elsewhere.pod(string(stays.UID), newNetns(t))
	c.running(gone)
	c.running(stays)
	c.eventually("both are enrolled, by what /proc says", func() bool {
		return c.annotation(gone) == RedirectionEnabled && c.annotation(stays) == RedirectionEnabled
	})
	never := c.pod("shop", "never", nil)
	ns := newNetns(t)
	_, err := api.Admit(t.Context(), c.socket, api.Sandbox{Pod: "shop/never", UID: string(never.UID), ID: "s1", Netns: ns})
	must(t, err)
	if got := c.has(); got != "shop/gone shop/never shop/stays" {
		t.Fatalf("enrolled are %q", got)
	}
	r.stop()
	ends.end()
	must(t, ns.Close())
	c.delete(gone)
	c.delete(never)
	c.start(c.server.Config)
	c.eventually("what is gone from the API is forgotten", func() bool { return c.has() == "shop/stays" })

	// Somebody's own, of whom the API never knew, is left alone.
	enrol := func(uid string, take func(p *process, cgroup *os.File) error) {
		p := c.node.pod(uid, newNetns(t))
		cgroup, err := openDirectory(p.dir)
		must(t, err)
		defer cgroup.Close()
		must(t, take(p, cgroup))
	}
	enrol(uidA, func(p *process, cgroup *os.File) error {
		return api.Enrol(t.Context(), c.socket, "own/pod", p.netns, cgroup)
	})
	enrol(uidB, func(p *process, cgroup *os.File) error {
		return api.Take(t.Context(), c.socket, api.Found{Pod: "own/stray", UID: uidB, Netns: p.netns, Cgroup: cgroup})
	})
	c.eventually("the stray goes", func() bool { return c.has() == "own/pod shop/stays" })
}
