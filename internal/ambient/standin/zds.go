package standin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/internal/ambient"
)

const (
	connectPatience = 5 * time.Second
	firstRetry      = 10 * time.Millisecond
)

// takePods is the proxy's side of ZDS; it returns when the agent is gone.
func (n *node) takePods(ctx context.Context) error {
	conn, err := n.connectZDS(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	context.AfterFunc(ctx, func() { conn.Close() })
	if _, err := conn.Write(ambient.EncodeHello()); err != nil {
		return fmt.Errorf("greet the agent: %w", err)
	}
	for {
		request, ns, err := readRequest(conn)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read from the agent: %w", err)
		}
		err = n.obey(ctx, request, ns)
		if _, werr := conn.Write(ambient.EncodeAck(err)); werr != nil {
			return fmt.Errorf("answer the agent: %w", werr)
		}
	}
}

func (n *node) obey(ctx context.Context, r ambient.ZDSRequest, ns *os.File) error {
	switch {
	case r.Add != nil:
		if ns == nil {
			return errors.New("a pod came without its namespace")
		}
		w, ok := n.cfg.workloadsOfNames[r.Add.Name]
		if !ok || w.Node != n.cfg.node || w.Namespace != r.Add.Namespace || w.ServiceAccount != r.Add.ServiceAccount {
			return fmt.Errorf("pod %s/%s is no workload of node %s", r.Add.Namespace, r.Add.Name, n.cfg.node)
		}
		return n.serve(ctx, w, ns)
	case r.SnapshotSent:
		close(n.ready)
		return nil
	}
	return errors.New("only pods that come are understood")
}

func (n *node) connectZDS(ctx context.Context) (*net.UnixConn, error) {
	deadline := time.Now().Add(connectPatience)
	for wait := firstRetry; ; wait *= 2 {
		c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: n.cfg.zds, Net: "unixpacket"})
		if err == nil {
			return c, nil
		}
		if time.Now().Add(wait).After(deadline) {
			return nil, fmt.Errorf("connect to the agent: %w", err)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// readRequest reads one message and the descriptor that came with it.
func readRequest(conn *net.UnixConn) (ambient.ZDSRequest, *os.File, error) {
	b, oob := make([]byte, 1024), make([]byte, unix.CmsgSpace(4))
	size, oobSize, flags, _, err := conn.ReadMsgUnix(b, oob)
	switch {
	case err != nil:
		return ambient.ZDSRequest{}, nil, err
	case size == 0:
		return ambient.ZDSRequest{}, nil, errors.New("the agent hung up")
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		return ambient.ZDSRequest{}, nil, errors.New("a message was cut")
	}
	var ns *os.File
	if oobSize > 0 {
		messages, err := unix.ParseSocketControlMessage(oob[:oobSize])
		if err != nil {
			return ambient.ZDSRequest{}, nil, err
		}
		fds, err := unix.ParseUnixRights(&messages[0])
		if err != nil {
			return ambient.ZDSRequest{}, nil, err
		}
		ns = os.NewFile(uintptr(fds[0]), "network namespace of a pod")
	}
	r, err := ambient.DecodeZDSRequest(b[:size])
	return r, ns, err
}
