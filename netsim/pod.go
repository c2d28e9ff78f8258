package netsim

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/duomesh/duomesh/internal/scenario"
)

// Kinds of link addresses, see mac.
const (
	macPod = iota
	macPodNode
	macNode
)

// pod is one simulated pod. Its cluster owns the descriptors.
type pod struct {
	spec   scenario.Pod
	node   *node
	addrs  Addresses   // the first of each family
	more   []Addresses // the second, the third
	netns  *os.File
	cgroup *os.File
	links  []scenario.LinkEnd
}

// openPod makes namespace, cgroup and link of the k'th pod of n, with the addresses of
// the planned one. What it made
// is in the returned pod also on error.
func openPod(n *node, k int, spec scenario.Pod, planned *pod) (_ *pod, err error) {
	p := &pod{spec: spec, node: n, addrs: planned.addrs, more: planned.more}
	defer func() {
		if err != nil {
			err = fmt.Errorf("pod %s: %w", spec.Name, err)
		}
	}()
	if p.cgroup, err = makeCgroup(filepath.Join(n.cgroup.Name(), spec.Name)); err != nil {
		return p, err
	}
	s, err := openSpace(false, n.ipv6)
	if err != nil {
		return p, err
	}
	p.netns = s.ns
	defer s.nl.Close()
	return p, p.connect(s, k)
}

// connect makes the link between the pod and its node, and routes both ways.
func (p *pod) connect(s *space, k int) error {
	n := p.node
	inside, outside := mac(macPod, n.index, k), mac(macPodNode, n.index, k)
	host, eth0, err := n.space.addVeth(fmt.Sprintf("p%d", k), outside, s, "eth0", inside)
	if err != nil {
		return err
	}
	p.links = []scenario.LinkEnd{
		{Netns: p.netns, Ifindex: eth0, InPod: true},
		{Netns: n.space.ns, Ifindex: host},
	}
	for _, a := range p.families() {
		gateway, everywhere := gateway4, netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if a.Is6() {
			gateway, everywhere = gateway6, netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		err := errors.Join(
			s.addAddr(eth0, a),
			s.addNeigh(eth0, gateway, outside),
			s.addRoute(eth0, everywhere, gateway),
			n.space.addNeigh(host, a, inside),
			n.space.addRoute(host, single(a), netip.Addr{}),
		)
		if err != nil {
			return err
		}
	}
	return nil
}

// families are all addresses of the pod, as far as it and this kernel have the family.
func (p *pod) families() []netip.Addr {
	all := p.addrs.list()
	for _, a := range p.more {
		all = append(all, a.list()...)
	}
	return all
}

// limit takes away the addresses of a family that the pod, or this kernel, has not.
func (p *pod) limit(f scenario.Family, ipv6 bool) {
	for _, a := range append([]*Addresses{&p.addrs}, pointers(p.more)...) {
		if f == scenario.IPv6 {
			a.IPv4 = netip.Addr{}
		}
		if f == scenario.IPv4 || !ipv6 {
			a.IPv6 = netip.Addr{}
		}
	}
}

func pointers[T any](values []T) []*T {
	var all []*T
	for i := range values {
		all = append(all, &values[i])
	}
	return all
}

// nth are the n'th addresses of each family, from 1.
func (p *pod) nth(n int) Addresses {
	switch {
	case n == 1:
		return p.addrs
	case n-2 < len(p.more):
		return p.more[n-2]
	}
	return Addresses{}
}

func (p *pod) close() error {
	var errs []error
	if p.netns != nil {
		errs = append(errs, p.netns.Close())
	}
	if p.cgroup != nil {
		errs = append(errs, p.cgroup.Close())
	}
	return errors.Join(errs...)
}

// unknownPod is the error for a name that no pod has; it lists those there are.
func unknownPod(name string, pods []string) error {
	slices.Sort(pods)
	const most = 20
	list := strings.Join(pods[:min(most, len(pods))], ", ")
	if more := len(pods) - most; more > 0 {
		list += fmt.Sprintf(" and %d more", more)
	}
	return fmt.Errorf("no pod %q: there are %s", name, list)
}
