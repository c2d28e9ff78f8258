package ambient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protowire"
)

// zdsServer hands the pods of one node to the node proxies that connect: the
// agent's side of ZDS over a unix SOCK_SEQPACKET socket. Each message waits for
// its acknowledgement before the next is sent; a pod comes with the descriptor of
// its network namespace.
type zdsServer struct {
	listener *net.UnixListener
	pods     []Pod
	// patience bounds one acknowledgement.
	patience time.Duration
	// ended gets the outcome of each connection's hand-over, nil when every pod
	// was taken.
	ended chan error
	conns context.CancelFunc
	done  chan struct{}
}

// ackPatience is how long Istio's own agent waits for an acknowledgement.
const ackPatience = 5 * time.Second

// zdsMessage is the most that either side sends (ztunnel reads 1024 bytes).
const zdsMessage = 1024

// zdsVersion is V1 of ZdsHello.
const zdsVersion = 1

// serveZDS listens at a path and serves the pods to whoever connects. The caller
// closes it; the pods' descriptors stay the caller's and open until then.
func serveZDS(path string, pods []Pod) (*zdsServer, error) {
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("listen for node proxies: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	z := &zdsServer{listener: l, pods: pods, patience: ackPatience, ended: make(chan error, 8), conns: cancel, done: make(chan struct{})}
	go z.accept(ctx)
	return z, nil
}

func (z *zdsServer) accept(ctx context.Context) {
	defer close(z.done)
	for {
		conn, err := z.listener.AcceptUnix()
		if err != nil {
			return // closed
		}
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		go func() {
			defer stop()
			defer conn.Close()
			err := z.handOver(conn)
			select {
			case z.ended <- err:
			default: // nobody waits any more
			}
			if err == nil {
				z.hold(conn)
			}
		}()
	}
}

// handOver speaks until the snapshot is acknowledged.
func (z *zdsServer) handOver(conn *net.UnixConn) error {
	if err := z.hello(conn); err != nil {
		return err
	}
	for _, p := range z.pods {
		if err := z.send(conn, addRequest(p), p.Netns); err != nil {
			return fmt.Errorf("hand over pod %s: %w", p.Name, err)
		}
	}
	if err := z.send(conn, appendBytes(nil, requestSnapshot, nil), nil); err != nil {
		return fmt.Errorf("end the snapshot of pods: %w", err)
	}
	return nil
}

func (z *zdsServer) hello(conn *net.UnixConn) error {
	b, err := z.read(conn)
	if err != nil {
		return fmt.Errorf("wait for the node proxy's hello: %w", err)
	}
	var version uint64
	if err := eachField(b, func(n protowire.Number, _ []byte, number uint64) {
		if n == helloVersion {
			version = number
		}
	}); err != nil {
		return fmt.Errorf("the node proxy's hello: %w", err)
	}
	if version != zdsVersion {
		return fmt.Errorf("the node proxy speaks version %d of ZDS, this driver version %d", version, zdsVersion)
	}
	return nil
}

// send sends one message, with a descriptor when there is one, and waits for its
// acknowledgement.
func (z *zdsServer) send(conn *net.UnixConn, message []byte, fd *os.File) error {
	var rights []byte
	if fd != nil {
		rights = unix.UnixRights(int(fd.Fd()))
	}
	if _, _, err := conn.WriteMsgUnix(message, rights, nil); err != nil {
		return err
	}
	b, err := z.read(conn)
	if err != nil {
		return fmt.Errorf("wait for the acknowledgement: %w", err)
	}
	return acknowledged(b)
}

// acknowledged returns the error that an acknowledgement carries.
func acknowledged(b []byte) error {
	acks, refused := 0, ""
	err := eachField(b, func(n protowire.Number, ack []byte, _ uint64) {
		if n != responseAck || ack == nil { // a number under that field is another message
			return
		}
		acks++
		if eachField(ack, func(n protowire.Number, text []byte, _ uint64) {
			if n == ackError {
				refused = string(text)
			}
		}) != nil {
			refused = "an acknowledgement that cannot be read"
		}
	})
	switch {
	case err != nil:
		return err
	case acks != 1:
		return errors.New("the answer is no acknowledgement")
	case refused != "":
		return fmt.Errorf("the node proxy refuses: %s", refused)
	}
	return nil
}

func (z *zdsServer) read(conn *net.UnixConn) ([]byte, error) {
	if err := conn.SetReadDeadline(time.Now().Add(z.patience)); err != nil {
		return nil, err
	}
	b := make([]byte, zdsMessage)
	n, err := conn.Read(b)
	if err == nil && n == 0 {
		err = errors.New("the node proxy hung up")
	}
	return b[:n], err
}

// hold keeps the connection as long as the proxy does: its end would mean that
// the agent is gone.
func (z *zdsServer) hold(conn *net.UnixConn) {
	if conn.SetReadDeadline(time.Time{}) != nil {
		return
	}
	b := make([]byte, zdsMessage)
	for {
		if n, err := conn.Read(b); err != nil || n == 0 {
			return
		}
	}
}

func (z *zdsServer) close() error {
	err := z.listener.Close()
	z.conns()
	<-z.done
	return err
}

func addRequest(p Pod) []byte {
	info := appendText(appendText(appendText(nil, infoName, p.Name), infoSpace, Namespace), infoAccount, p.ServiceAccount)
	return appendBytes(nil, requestAdd, appendBytes(appendText(nil, addUID, p.UID()), addInfo, info))
}
