package traffic

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// Launch starts a traffic process where a world wants it. args is the whole
// argv; the program is one whose main calls IsChild. The process gets the two
// descriptors as standard input and output; they stay the caller's. It is
// killed when ctx is done. wait returns when it has ended: nil for exit code 0,
// otherwise an error with what it wrote to standard error.
type Launch func(ctx context.Context, args []string, stdin, stdout *os.File) (wait func() error, err error)

// process is a started child and our ends of its pipes.
type process struct {
	in   *os.File
	out  *os.File
	wait func() error
}

func start(ctx context.Context, launch Launch, role string) (*process, error) {
	childIn, in, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("traffic %s: %w", role, err)
	}
	defer childIn.Close()
	out, childOut, err := os.Pipe()
	if err != nil {
		in.Close()
		return nil, fmt.Errorf("traffic %s: %w", role, err)
	}
	defer childOut.Close()
	wait, err := launch(ctx, []string{childName, role}, childIn, childOut)
	if err != nil {
		in.Close()
		out.Close()
		return nil, fmt.Errorf("start traffic %s: %w", role, err)
	}
	return &process{in: in, out: out, wait: wait}, nil
}

// ErrGaveUp: a client has waited too long in connections that failed, and made no more
// (Load.Patience).
var ErrGaveUp = errors.New("its patience with connections that fail was at its end")

// RunClient runs one client process for l and returns its connections in the
// order of their ends; each is also handed to seen when that is not nil, and with
// HTTP a line of Role Progress before it. On error it returns what was seen before.
func RunClient(ctx context.Context, launch Launch, l Load, seen func(Conn)) ([]Conn, error) {
	if err := l.Check(); err != nil {
		return nil, err
	}
	p, err := start(ctx, launch, clientRole)
	if err != nil {
		return nil, err
	}
	sendErr := json.NewEncoder(p.in).Encode(l)
	p.in.Close()
	conns, readErr := p.connections(l.Connections, seen)
	p.out.Close()
	err = errors.Join(p.wait(), sendErr, readErr, ctx.Err())
	if err == nil && len(conns) != l.Connections {
		err = fmt.Errorf("it gave up after %d of %d connections: %w", len(conns), l.Connections, ErrGaveUp)
	}
	if err != nil {
		return conns, fmt.Errorf("traffic client to %s: %w", l.To, err)
	}
	return conns, nil
}

func (p *process) connections(n int, seen func(Conn)) ([]Conn, error) {
	conns := make([]Conn, 0, n)
	dec := json.NewDecoder(p.out)
	for {
		var c Conn
		if err := dec.Decode(&c); errors.Is(err, io.EOF) {
			return conns, nil
		} else if err != nil {
			return conns, fmt.Errorf("read connections: %w", err)
		}
		if c.Role != Progress {
			conns = append(conns, c)
		}
		if seen != nil {
			seen(c)
		}
	}
}
