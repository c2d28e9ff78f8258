package scenario

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// AddressOf names the n'th address of each family of a pod, from 1: the first by the
// pod's name alone, the second of v1 as "v1/2".
func AddressOf(pod string, n int) string {
	if n < 2 {
		return pod
	}
	return pod + "/" + strconv.Itoa(n)
}

// SplitAddress is the reverse of AddressOf. What is no such name is a pod's.
func SplitAddress(name string) (pod string, n int) {
	pod, number, found := strings.Cut(name, "/")
	if n, err := strconv.Atoi(number); found && err == nil && AddressOf(pod, n) == name {
		return pod, n
	}
	return name, 1
}

// PortOf is the port on which a pod must have been reached.
func (w Want) PortOf(pod string) uint16 {
	if port, own := w.Ports[pod]; own {
		return port
	}
	return w.Port
}

// MaxAddresses bounds the addresses of each family that one pod has.
const MaxAddresses = 3

// addresses are the names of all addresses of all pods.
func (t Topology) addresses() map[string]bool {
	all := map[string]bool{}
	for _, n := range t.Nodes {
		for _, p := range n.Pods {
			for i := range max(p.Addresses, 1) {
				all[AddressOf(p.Name, i+1)] = true
			}
		}
	}
	return all
}

// validateAddresses reports what makes no sense of a pod's own addresses.
func (p Pod) validateAddresses() error {
	switch p.Family {
	case "", IPv4, IPv6, Dual:
	default:
		return atf("family", "pod %s: family %q is none of %s, %s, %s", p.Name, p.Family, IPv4, IPv6, Dual)
	}
	if p.Addresses < 0 || p.Addresses > MaxAddresses {
		return atf("addresses", "pod %s: %d addresses of each family, at most %d", p.Name, p.Addresses, MaxAddresses)
	}
	return nil
}

// validateSet reports what makes no sense of which endpoints a service chooses.
func (s Service) validateSet() error {
	if s.Headless && s.Waypoint != "" {
		return atf("headless", "headless, and yet waypoint %s", s.Waypoint)
	}
	if err := s.Balance.validate(); err != nil {
		return at("balance", err)
	}
	for i, p := range s.Ports {
		if p.Target != 0 && p.TargetName != "" {
			return atf(fmt.Sprintf("ports[%d]", i), "port %d: target %d and targetName %s: one of the two", p.Port, p.Target, p.TargetName)
		}
	}
	for i, e := range s.Endpoints {
		for port := range e.Ports {
			if !slices.ContainsFunc(s.Ports, func(p Port) bool { return p.Port == port }) {
				return atf(fmt.Sprintf("endpoints[%d].ports", i), "endpoint %s: it has a target for port %d, which is not declared", e.Pod, port)
			}
		}
	}
	return nil
}

func (b Balance) validate() error {
	modes := []intent.Mode{intent.Any, intent.Strict, intent.Failover, intent.Passthrough}
	if !slices.Contains(modes, b.Mode) {
		return atf("mode", "balance: mode %q is none of %s, %s, %s", b.Mode, intent.Strict, intent.Failover, intent.Passthrough)
	}
	scopes := []intent.Scope{
		intent.ScopeNetwork, intent.ScopeRegion, intent.ScopeZone, intent.ScopeSubzone, intent.ScopeNode, intent.ScopeCluster,
	}
	for i, s := range b.Prefer {
		if !slices.Contains(scopes, s) {
			return atf(fmt.Sprintf("prefer[%d]", i), "balance: scope %q is none of %v", s, scopes)
		}
	}
	if compares := b.Mode == intent.Strict || b.Mode == intent.Failover; compares != (len(b.Prefer) > 0) {
		return fmt.Errorf("balance: prefer goes with %s and %s, and these need it", intent.Strict, intent.Failover)
	}
	return nil
}
