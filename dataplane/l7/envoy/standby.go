package envoy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// standBy is an Envoy that has begun and waits for its configuration: it reads that from
// a FIFO into which nobody has written. It has no socket, no connection and no worker;
// what is behind it is the longer half of a start.
type standBy struct {
	*child
	fifo string
}

// prepare starts the one that stands by.
func (p *Process) prepare() error {
	// The name's end says how it is written.
	fifo := filepath.Join(filepath.Dir(p.config.Bootstrap), "standby.json")
	if err := os.Remove(fifo); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("an Envoy that stands by: %w", err)
	}
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		return fmt.Errorf("an Envoy that stands by: make %s: %w", fifo, err)
	}
	c, err := p.start(fifo)
	if err != nil {
		return err
	}
	p.setSpare(&standBy{c, fifo})
	return nil
}

// spareAgain is how long none stands by after one that ended.
const spareAgain = 10 * time.Second

func (p *Process) prepareOrSay() {
	if err := p.prepare(); err != nil {
		p.config.Log.Warn("no Envoy stands by for the next start", "error", err)
	}
}

// spareEnded is told when the one that stands by has ended; nil where there is none.
func (p *Process) spareEnded() <-chan error {
	if p.spare == nil {
		return nil
	}
	return p.spare.ended
}

// setSpare makes another, or nil, stand by.
func (p *Process) setSpare(s *standBy) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.spare = s
}

// dismiss ends the one that stands by, if there is one. It has nothing to finish.
func (p *Process) dismiss() {
	if p.spare == nil {
		return
	}
	p.spare.cmd.Process.Kill() // fails only when it has ended
	<-p.spare.ended
	p.setSpare(nil)
}

// next is the Envoy that is to run now: the one that stands by, else a new one.
func (p *Process) next(ctx context.Context) (*child, error) {
	if p.spare == nil {
		return p.start(p.config.Bootstrap)
	}
	if err := p.spare.wake(ctx, p.config.Bootstrap); err != nil {
		p.config.Log.Warn("the Envoy that stood by is of no use", "error", err)
		p.dismiss()
		return p.start(p.config.Bootstrap)
	}
	c := p.spare.child
	p.setSpare(nil)
	return c, nil
}

// wakePoll is how often an Envoy that has not come to its configuration yet is tried.
const wakePoll = time.Millisecond

// wake gives it its configuration.
func (s *standBy) wake(ctx context.Context, bootstrap string) error {
	data, err := os.ReadFile(bootstrap)
	if err != nil {
		return fmt.Errorf("give it its bootstrap: %w", err)
	}
	for {
		to, err := os.OpenFile(s.fifo, os.O_WRONLY|unix.O_NONBLOCK, 0)
		if err == nil {
			_, err = to.Write(data)
			return errors.Join(err, to.Close())
		}
		if !errors.Is(err, unix.ENXIO) { // nobody reads it yet
			return fmt.Errorf("give it its bootstrap: %w", err)
		}
		if ended, err := s.over(); ended {
			return fmt.Errorf("it has ended before: %w", err)
		}
		if !sleep(ctx, wakePoll) {
			return ctx.Err()
		}
	}
}
