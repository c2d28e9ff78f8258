package l4

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

func originsOf(e *Engine) *table[uint32, meshOriginPlace] {
	return &table[uint32, meshOriginPlace]{name: meshMapOrigins, m: e.coll.Maps[meshMapOrigins]}
}

func taken(tb testing.TB, e *Engine) int {
	tb.Helper()
	n := 0
	must(tb, originsOf(e).each(func(_ uint32, p meshOriginPlace) {
		if p.Cookie != 0 {
			n++
		}
	}))
	return n
}

// A socket holds a place for its asked address while it is open, not longer.
func TestOriginPlacesAreGivenBack(t *testing.T) {
	n := newNode(t)
	p := n.pod(t, "default/client")
	e := n.open(t, Options{})
	apply(t, e, decisions()...)
	must(t, e.Enrol(p.Pod))
	fd := p.do(t, call{Op: "socket", Domain: v4, Type: unix.SOCK_STREAM}).FD
	p.connect(t, fd, "10.9.0.1:80", 0)
	if n := taken(t, e); n != 1 {
		t.Errorf("%d places taken by one socket", n)
	}
	p.do(t, call{Op: "close", FD: fd})
	for _, proto := range []int{0, unix.IPPROTO_MPTCP} {
		a := p.do(t, call{Op: "repeat", N: 1000, Domain: v4, Type: unix.SOCK_STREAM, Proto: proto, To: addrPort("10.9.0.1:80")})
		if a.Errno != 0 && proto == 0 {
			t.Errorf("connect: %v", a.Errno)
		}
	}
	must(t, eventually(func() error {
		if n := taken(t, e); n != 0 {
			return fmt.Errorf("%d places are taken though no socket is open", n)
		}
		return nil
	}))
}

func TestGetpeernameOfMPTCP(t *testing.T) {
	n := newNode(t)
	p := n.pod(t, "default/client")
	e := n.open(t, Options{})
	apply(t, e, decisions()...)
	must(t, e.Enrol(p.Pod))
	vip := addrPort("10.9.0.1:80")
	a := p.do(t, call{Op: "dial", Domain: v4, Type: unix.SOCK_STREAM, Proto: unix.IPPROTO_MPTCP, To: vip})
	if a.Errno == unix.EPROTONOSUPPORT || a.Errno == unix.ENOPROTOOPT {
		t.Skipf("NOT RUN: the kernel has no MPTCP: %v", a.Errno)
	}
	if a.Errno != 0 || a.Peer != vip {
		t.Errorf("peer %v, errno %v", a.Peer, a.Errno)
	}
}

// An MPTCP socket that connects a second time, straight to the endpoint that it had,
// has no service any more.
func TestMPTCPSocketThatConnectsAgain(t *testing.T) {
	n := newNode(t)
	p := n.pod(t, "default/client")
	e := n.open(t, Options{})
	apply(t, e, decisions()...)
	must(t, e.Enrol(p.Pod))
	a := p.do(t, call{Op: "socket", Domain: v4, Type: unix.SOCK_STREAM, Proto: unix.IPPROTO_MPTCP})
	if a.Errno != 0 {
		t.Skipf("NOT RUN: the kernel has no MPTCP: %v", a.Errno)
	}
	defer p.do(t, call{Op: "close", FD: a.FD})
	for range 2 {
		for _, to := range []string{"10.9.0.1:80", "10.1.0.1:7001"} {
			p.connect(t, a.FD, to, 0)
			p.wantPeer(t, a.FD, to)
			p.mustDo(t, call{Op: "disconnect", FD: a.FD})
		}
	}
}

// Where the place is another socket's, the asked address is kept all the same.
func TestOriginsSpill(t *testing.T) {
	n := newNode(t)
	p := n.pod(t, "default/client")
	e := n.open(t, Options{})
	apply(t, e, decisions()...)
	must(t, e.Enrol(p.Pod))
	all := originsOf(e)
	var keys []uint32
	var values []meshOriginPlace
	for k := range uint32(meshMeshSizeORIGIN_PLACES) {
		keys, values = append(keys, k), append(values, meshOriginPlace{Cookie: 1<<63 + uint64(k)})
	}
	must(t, all.put(keys, values))
	fd := p.do(t, call{Op: "socket", Domain: v4, Type: unix.SOCK_STREAM}).FD
	p.connect(t, fd, "10.9.0.1:80", 0)
	p.wantPeer(t, fd, "10.9.0.1:80")
	p.do(t, call{Op: "disconnect", FD: fd})
	p.connect(t, fd, "10.1.0.1:7001", 0) // the endpoint itself
	p.wantPeer(t, fd, "10.1.0.1:7001")
	p.do(t, call{Op: "close", FD: fd})
	if n := taken(t, e); n != len(keys) {
		t.Errorf("%d places taken, want %d: a place of another socket was given back", n, len(keys))
	}
}
