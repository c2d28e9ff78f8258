package ambient

import (
	"errors"
	"net"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The table and the place of the rule by which marked replies stay inside the pod.
const (
	replyTable    = 100
	replyPriority = 32764
	loopback      = 1 // index of lo in every namespace
)

// routeReplies makes every address local for packets that carry the reply mark:
// the proxy connects to the application from the client's own address.
func routeReplies(ns *os.File) error {
	nl, err := netlink.NewHandleAt(netns.NsHandle(ns.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer nl.Close()
	everywhere := &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	err = nl.RouteReplace(&netlink.Route{
		LinkIndex: loopback, Dst: everywhere, Type: unix.RTN_LOCAL, Table: replyTable, Scope: netlink.SCOPE_HOST,
	})
	if err != nil {
		return err
	}
	mask := uint32(markMask)
	rule := netlink.NewRule()
	rule.Family, rule.Mark, rule.Mask, rule.Table, rule.Priority = netlink.FAMILY_V4, replyMark, &mask, replyTable, replyPriority
	if err := nl.RuleAdd(rule); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}
