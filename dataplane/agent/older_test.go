package agent

import (
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/internal/kernel"
)

// reach gives a pod an address other than the loopback's, and a server there that
// echoes.
func (p *somePod) reach(t *testing.T) (server string) {
	t.Helper()
	h, err := netlink.NewHandleAt(netns.NsHandle(p.netns.Fd()), unix.NETLINK_ROUTE)
	must(t, err)
	defer h.Close()
	lo, err := h.LinkByIndex(1)
	must(t, err)
	must(t, h.LinkSetUp(lo))
	a, err := netlink.ParseAddr("192.0.2.1/32")
	must(t, err)
	must(t, h.AddrAdd(lo, a))
	var l net.Listener
	must(t, kernel.InNetns(p.netns, func() (err error) {
		l, err = net.Listen("tcp", "192.0.2.1:0")
		return err
	}))
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
			go func() {
				b := make([]byte, 1)
				for {
					if _, err := c.Read(b); err != nil {
						return
					}
					if _, err := c.Write(b); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

// dial connects in the pod.
func (p *somePod) dial(t *testing.T, to string) net.Conn {
	t.Helper()
	var c net.Conn
	must(t, kernel.InNetns(p.netns, func() (err error) {
		c, err = net.Dial("tcp", to)
		return err
	}))
	t.Cleanup(func() { c.Close() })
	return c
}

func works(c net.Conn) error {
	if _, err := c.Write([]byte("x")); err != nil {
		return err
	}
	_, err := c.Read(make([]byte, 1))
	return err
}

// older enrols a pod that has connections, and returns them.
func older(t *testing.T, r *running, p *somePod, server string) []net.Conn {
	t.Helper()
	var all []net.Conn
	for range 3 {
		all = append(all, p.dial(t, server))
		must(t, works(all[len(all)-1]))
	}
	must(t, p.enrol(t, r))
	return all
}

func TestOlderConnectionsStay(t *testing.T) {
	g := newGround(t)
	r := g.start(t)
	p := g.pod(t, "p")
	server := p.reach(t)
	all := older(t, r, p, server)
	if s := r.status().Pods; len(s) != 1 || s[0].Older != 3 || s[0].Ended != 0 {
		t.Errorf("status is %+v", s)
	}
	for _, c := range all {
		if err := works(c); err != nil {
			t.Errorf("a connection that is older: %v", err)
		}
	}
	// What comes later is none of them.
	p.dial(t, server)
	must(t, p.enrol(t, r))
	if s := r.status().Pods; len(s) != 1 || s[0].Older != 3 {
		t.Errorf("enrolled again: %+v", s)
	}
	if _, body := r.get("http://" + r.Metrics() + "/metrics"); !strings.Contains(body, `duomesh_older_connections{fate="left"} 3`) {
		t.Errorf("the metrics do not tell of them:\n%s", body)
	}
}

func TestOlderConnectionsAreEnded(t *testing.T) {
	if err := kernel.EndSockets.Probe(); err != nil {
		t.Skipf("NOT RUN: %v", err)
	}
	g := newGround(t)
	cfg := g.config(t)
	cfg.ResetExisting = true
	r := g.startAs(t, cfg)
	p, other := g.pod(t, "p"), g.pod(t, "other")
	server := p.reach(t)
	stranger := other.dial(t, other.reach(t))
	for _, c := range older(t, r, p, server) {
		if err := works(c); !errors.Is(err, syscall.ECONNABORTED) && !errors.Is(err, syscall.EPIPE) {
			t.Errorf("a connection that is older: %v", err)
		}
	}
	if s := r.status().Pods; len(s) != 1 || s[0].Older != 3 || s[0].Ended != 3 {
		t.Errorf("status is %+v", s)
	}
	if err := works(stranger); err != nil {
		t.Errorf("a connection of a pod that nobody enrols: %v", err)
	}
	// Enrolled again, and by the next agent: what is managed already is left alone.
	younger := p.dial(t, server)
	must(t, p.enrol(t, r))
	if err := works(younger); err != nil {
		t.Errorf("a younger connection: %v", err)
	}
	must(t, r.stop())
	p.live(t)
	r = g.startAs(t, cfg)
	must(t, p.enrol(t, r))
	if err := works(younger); err != nil {
		t.Errorf("a younger connection, after the next agent began: %v", err)
	}
	if s := r.status().Pods; len(s) != 1 || s[0].Older != 3 || s[0].Ended != 3 {
		t.Errorf("the next agent says %+v", s)
	}
}
