package bench

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/bench/result"
	"github.com/duomesh/duomesh/internal/scenario"
)

// podPackets is what the interfaces of a pod have counted.
type podPackets struct {
	pod            string
	loopback, link uint64
}

// packets reads the interfaces of every pod on the way.
func (s Site) packets() ([]podPackets, error) {
	var all []podPackets
	for _, pod := range []Pod{s.Client, s.Proxy, s.Server} {
		if pod == nil {
			continue
		}
		h, ok := pod.Handle()
		if !ok {
			continue
		}
		p, err := packetsOf(h)
		if err != nil {
			return nil, fmt.Errorf("count packets of pod %s: %w", h.Name, err)
		}
		all = append(all, p)
	}
	return all, nil
}

func packetsOf(h scenario.PodHandle) (podPackets, error) {
	p := podPackets{pod: h.Name}
	nl, err := netlink.NewHandleAt(netns.NsHandle(h.Netns.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return p, err
	}
	defer nl.Close()
	links, err := nl.LinkList()
	if err != nil {
		return p, err
	}
	for _, l := range links {
		a := l.Attrs()
		if a.Statistics == nil {
			continue
		}
		if a.Name == "lo" { // what it sends it receives
			p.loopback += a.Statistics.TxPackets
			continue
		}
		p.link += a.Statistics.TxPackets + a.Statistics.RxPackets
	}
	return p, nil
}

func perRequest(before, after []podPackets, requests int64) []result.Packets {
	var all []result.Packets
	n := float64(max(requests, 1))
	for i, a := range after {
		all = append(all, result.Packets{
			Pod: a.pod, Loopback: float64(a.loopback-before[i].loopback) / n, Link: float64(a.link-before[i].link) / n,
		})
	}
	return all
}
