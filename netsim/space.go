package netsim

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/duomesh/duomesh/internal/kernel"
)

// loopback is the interface index of lo in every new namespace.
const loopback = 1

// sysctl is one setting of a network namespace, by its path below
// /proc/sys/net.
type sysctl struct {
	path  string
	value string
}

// Settings of every namespace, before its first link: interfaces copy default.
var quietIPv6 = []sysctl{
	{"ipv6/conf/default/accept_dad", "0"},
	{"ipv6/conf/default/accept_ra", "0"},
	{"ipv6/conf/default/router_solicitations", "0"},
	{"ipv6/conf/default/addr_gen_mode", "1"}, // no link-local address
	{"ipv6/conf/all/disable_ipv6", "0"},
	{"ipv6/conf/default/disable_ipv6", "0"},
	{"ipv6/conf/lo/disable_ipv6", "0"},
}

// Settings of IPv4 in every namespace. Reverse path filtering would drop what
// comes from an address that another link is routed to.
var plainIPv4 = []sysctl{
	{"ipv4/conf/all/rp_filter", "0"},
	{"ipv4/conf/default/rp_filter", "0"},
	{"ipv4/conf/default/send_redirects", "0"},
	{"ipv4/conf/all/send_redirects", "0"},
	// Every datagram to a closed port is answered, not one a second.
	{"ipv4/icmp_ratemask", "0"},
}

// Settings of a namespace that routes.
var forward4 = []sysctl{
	{"ipv4/ip_forward", "1"},
	{"ipv4/conf/default/forwarding", "1"},
}

var forward6 = []sysctl{
	{"ipv6/conf/all/forwarding", "1"},
	{"ipv6/conf/default/forwarding", "1"},
}

// haveIPv6 reports whether this kernel runs IPv6.
func haveIPv6() bool {
	_, err := os.Stat("/proc/sys/net/ipv6")
	return err == nil
}

// openSpace makes a namespace with lo up; one that routes for a node, plain
// otherwise. The caller closes it.
func openSpace(routes, ipv6 bool) (*space, error) {
	ns, err := kernel.NewNetns()
	if err != nil {
		return nil, err
	}
	nl, err := openNetlink(ns)
	if err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	s := &space{ns: ns, nl: nl}
	settings := plainIPv4
	if ipv6 {
		settings = append(settings[:len(settings):len(settings)], quietIPv6...)
	}
	if routes {
		settings = append(settings[:len(settings):len(settings)], forward4...)
	}
	if routes && ipv6 {
		settings = append(settings, forward6...)
	}
	err = errors.Join(
		kernel.InNetns(ns, func() error { return setAll(settings) }),
		s.up(loopback),
	)
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// setAll writes settings in the namespace of the calling thread, but those that are so
// already: to write some, the kernel tries for its lock of all interfaces again and
// again, without a pause, while another thread has it.
func setAll(settings []sysctl) error {
	for _, s := range settings {
		path := "/proc/sys/net/" + s.path
		if now, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(now)) == s.value {
			continue
		}
		if err := os.WriteFile(path, []byte(s.value), 0); err != nil {
			return fmt.Errorf("set net/%s to %s: %w", s.path, s.value, err)
		}
	}
	return nil
}
