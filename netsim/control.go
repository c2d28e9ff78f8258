package netsim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"time"

	"github.com/duomesh/duomesh/internal/scenario"
)

const controlSocket = "control.sock"

// request is one line to a cluster's control socket, answered by one line. Only
// root reaches the socket: the run directory has mode 0700.
type request struct {
	Apply *scenario.Objects `json:"apply,omitempty"`
	// Ended asks what has ended, Revive for that to be started again.
	Ended  bool     `json:"ended,omitempty"`
	Revive *revival `json:"revive,omitempty"`
}

// revival names what is to be started; no names mean all that has ended.
type revival struct {
	Names []string `json:"names"`
}

type response struct {
	Error string `json:"error,omitempty"`
	// Refused: what was asked for cannot be had, and nothing was changed.
	Refused bool `json:"refused,omitempty"`
	// Ended answers a question for that.
	Ended []string `json:"ended,omitempty"`
}

// RefusedError is about objects that a cluster does not take; what it has stays.
type RefusedError struct{ Err error }

// Error implements error.
func (r RefusedError) Error() string { return r.Err.Error() }

// Unwrap returns the reason.
func (r RefusedError) Unwrap() error { return r.Err }

// control lets other processes change a living cluster.
type control struct {
	listener net.Listener
	cancel   context.CancelFunc
	wg       sync.WaitGroup
}

func openControl(c *Cluster) (*control, error) {
	l, err := net.Listen("unix", filepath.Join(c.run.path, controlSocket))
	if err != nil {
		return nil, fmt.Errorf("open control socket: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ctl := &control{listener: l, cancel: cancel}
	ctl.wg.Go(func() { ctl.serve(ctx, c) })
	return ctl, nil
}

// close ends what is being asked and waits for it. A nil control is closed.
func (ctl *control) close() error {
	if ctl == nil {
		return nil
	}
	ctl.cancel()
	err := ctl.listener.Close()
	ctl.wg.Wait()
	return err
}

// acceptPause keeps a process without descriptors from spinning.
const acceptPause = 5 * time.Millisecond

func (ctl *control) serve(ctx context.Context, c *Cluster) {
	for {
		conn, err := ctl.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// It concerns one connection, or there are no descriptors left:
			// then more haste does not help.
			select {
			case <-ctx.Done():
				return
			case <-time.After(acceptPause):
				continue
			}
		}
		ctl.wg.Go(func() {
			stop := context.AfterFunc(ctx, func() { conn.Close() })
			defer stop()
			defer conn.Close()
			answer(ctx, c, conn)
		})
	}
}

func answer(ctx context.Context, c *Cluster, conn net.Conn) {
	var req request
	err := json.NewDecoder(conn).Decode(&req)
	if errors.Is(err, io.EOF) {
		return
	}
	var res response
	switch {
	case err != nil:
		err = fmt.Errorf("read request: %w", err)
	case req.Ended:
		res.Ended = c.Ended()
	case req.Revive != nil:
		err = c.Revive(ctx, req.Revive.Names...)
	case req.Apply != nil:
		err = errors.Join(c.repair(), c.Apply(ctx, *req.Apply))
	default:
		err = errors.New("the request asks for nothing that this version knows")
	}
	if err != nil {
		var no RefusedError
		res.Error, res.Refused = err.Error(), errors.As(err, &no)
	}
	json.NewEncoder(conn).Encode(res) // fails only when the asker has gone
}

// ApplyTo replaces the declared objects of a living cluster of another process
// and returns when every node has them. runDir empty means DefaultRunDir.
func ApplyTo(ctx context.Context, runDir, id string, o scenario.Objects) error {
	_, err := askControl(ctx, runDir, id, request{Apply: &o})
	return err
}
