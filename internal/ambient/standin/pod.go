package standin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/internal/ambient"
	"github.com/duomesh/duomesh/internal/kernel"
)

// pod is one captured pod: its listeners, its identity, its pools.
type pod struct {
	node     *node
	workload ambient.Workload
	address  netip.Addr
	space    *space
	identity string
	pools    pools
}

// serve opens the three doors of a pod inside its namespace. The pod's
// certificate is fetched first, as ztunnel does.
func (n *node) serve(ctx context.Context, w ambient.Workload, ns *os.File) error {
	address, err := netip.ParseAddr(w.WorkloadIPs[0])
	if err != nil {
		return err
	}
	p := &pod{node: n, workload: w, address: address, space: &space{home: n.home, ns: ns}, identity: identity(w)}
	p.pools.pod = p
	if _, err := n.certs.of(ctx, p.identity); err != nil {
		return err
	}
	for port, handle := range map[uint16]func(context.Context, *net.TCPConn) error{
		ambient.OutboundPort: p.outbound, ambient.PlaintextPort: p.inbound, ambient.HBONEPort: nil,
	} {
		l, err := listen(ns, port)
		if err != nil {
			return fmt.Errorf("pod %s: %w", w.Name, err)
		}
		context.AfterFunc(ctx, func() { l.Close() })
		if handle == nil {
			go func() {
				if err := p.tunnels(ctx, l); ctx.Err() == nil {
					p.node.fail <- fmt.Errorf("pod %s: serve tunnels: %w", w.Name, err)
				}
			}()
			continue
		}
		go p.accept(ctx, l, handle)
	}
	return nil
}

func listen(ns *os.File, port uint16) (*net.TCPListener, error) {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return control(c, func(fd int) error { return mark(fd) })
	}}
	var l net.Listener
	err := kernel.InNetns(ns, func() (err error) {
		l, err = config.Listen(context.Background(), "tcp4", fmt.Sprintf("0.0.0.0:%d", port))
		return err
	})
	if err != nil {
		return nil, err
	}
	return l.(*net.TCPListener), nil
}

func (p *pod) accept(ctx context.Context, l *net.TCPListener, handle func(context.Context, *net.TCPConn) error) {
	for {
		c, err := l.AcceptTCP()
		if err != nil {
			return // closed
		}
		go func() {
			defer c.Close()
			if err := handle(ctx, c); err != nil && ctx.Err() == nil {
				p.node.say("error pod=%s peer=%s: %v", p.workload.Name, c.RemoteAddr(), err)
			}
		}()
	}
}

// outbound takes a connection that the pod's application made to somewhere.
func (p *pod) outbound(ctx context.Context, c *net.TCPConn) error {
	asked, err := originalDestination(c)
	if err != nil {
		return err
	}
	if through, ok := p.node.cfg.waypoints[asked]; ok {
		w, known := p.node.cfg.workloads[through.Addr()]
		if !known {
			return fmt.Errorf("waypoint %s of %s is no workload", through, asked)
		}
		return p.throughTunnel(ctx, c, asked, through, w)
	}
	to := asked
	if backend, ok := p.node.cfg.services[asked]; ok {
		to = backend
	}
	w, known := p.node.cfg.workloads[to.Addr()]
	if known && w.Protocol == ambient.HBONE {
		return p.throughTunnel(ctx, c, to, netip.AddrPortFrom(to.Addr(), ambient.HBONEPort), w)
	}
	up, err := p.space.dial(netip.AddrPort{}, to)
	if err != nil {
		return err
	}
	defer up.Close()
	p.opened(ambient.ReporterSource, ambient.Unknown, known, w, ambient.SecurityUnknown)
	return both(c, up)
}

// opened counts a connection and writes the access log. As with ztunnel, a source
// is only known where TLS has proved it.
func (p *pod) opened(reporter, source string, known bool, destination ambient.Workload, security string) {
	to := ambient.Unknown
	if known {
		to = identity(destination)
	}
	p.node.counters.open(reporter, source, to, security)
	if p.node.cfg.accessLog {
		p.node.say("access reporter=%s src=%s dst=%s security=%s", reporter, source, to, security)
	}
}

// inbound takes a plaintext connection to the pod.
func (p *pod) inbound(_ context.Context, c *net.TCPConn) error {
	to, err := originalDestination(c)
	if err != nil {
		return err
	}
	from := peerOf(c)
	up, err := p.space.dial(from, to)
	if err != nil {
		return err
	}
	defer up.Close()
	p.opened(ambient.ReporterDest, ambient.Unknown, true, p.workload, ambient.SecurityUnknown)
	return both(c, up)
}

// originalDestination is what the redirect rule replaced (SO_ORIGINAL_DST).
func originalDestination(c *net.TCPConn) (to netip.AddrPort, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return to, err
	}
	err = control(raw, func(fd int) error {
		// The sockaddr_in is read into a structure that is long enough for it.
		a, err := unix.GetsockoptIPv6Mreq(fd, unix.IPPROTO_IP, unix.SO_ORIGINAL_DST)
		if err != nil {
			return err
		}
		b := a.Multiaddr
		to = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), uint16(b[2])<<8|uint16(b[3]))
		return nil
	})
	if err != nil {
		return to, fmt.Errorf("ask for the destination before the redirect: %w", err)
	}
	return to, nil
}

// both copies in both directions until both have ended.
func both(a, b *net.TCPConn) error {
	there := make(chan error, 1)
	go func() { there <- oneWay(b, a) }()
	return errors.Join(oneWay(a, b), <-there)
}

// bufferSize is that of a copy; ztunnel's grow from 1 KiB on.
const bufferSize = 16 << 10

// pump copies until the end, with a buffer that others had before.
func pump(to io.Writer, from io.Reader) error {
	buffer := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buffer)
	_, err := io.CopyBuffer(writer{to}, reader{from}, buffer[:])
	return err
}

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// reader and writer hide that both ends are sockets: io.Copy would splice, which
// costs a pipe for each connection and is no model of a proxy that reads.
type (
	reader struct{ io.Reader }
	writer struct{ io.Writer }
)

func oneWay(to, from *net.TCPConn) error {
	err := pump(to, from)
	if e := to.CloseWrite(); err == nil && !errors.Is(e, unix.ENOTCONN) {
		err = e
	}
	if errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) {
		return nil // an application may end like that
	}
	return err
}

// peerOf is the other end's address; the library may say it in its IPv6 form.
func peerOf(c *net.TCPConn) netip.AddrPort {
	a := c.RemoteAddr().(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
