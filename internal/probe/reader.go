package probe

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cilium/ebpf/ringbuf"
)

// past is a deadline that makes a read return what is there and not wait.
var past = time.Unix(1, 0)

const recordHeader = 8 // BPF_RINGBUF_HDR_SZ

// drain reads every event that was in the ring when it began. The programs wake
// nobody, so the reader polls. p.mu must be held.
func (p *Probe) drain() error {
	p.ring.SetDeadline(past)
	for left := int(p.ring.AvailableBytes()); left > 0; {
		err := p.ring.ReadInto(&p.record)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the event ring: %w", err)
		}
		left -= recordHeader + (len(p.record.RawSample)+7)&^7
		if err := decode(p.record.RawSample, &p.event); err != nil {
			return fmt.Errorf("read the event ring: %w", err)
		}
		p.book.add(&p.event)
	}
	return nil
}

// poll drains until stop is closed. An error is kept for the next caller.
func (p *Probe) poll(every time.Duration) {
	defer close(p.stopped)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-tick.C:
		}
		p.mu.Lock()
		if err := p.drain(); err != nil {
			p.readErr = err
		}
		failed := p.readErr != nil
		p.mu.Unlock()
		if failed {
			return
		}
	}
}

func newReader(o *objects) (*ringbuf.Reader, error) {
	r, err := ringbuf.NewReader(o.maps.Events)
	if err != nil {
		return nil, fmt.Errorf("open the event ring: %w", err)
	}
	return r, nil
}
