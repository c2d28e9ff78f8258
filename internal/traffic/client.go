package traffic

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// Check reports why a Load cannot be run.
func (l Load) Check() error {
	switch {
	case !l.To.IsValid():
		return errors.New("load: no address to connect to")
	case l.Connections < 0:
		return fmt.Errorf("load: %d connections", l.Connections)
	case l.Bytes < 0 || l.Bytes > MaxBytes:
		return fmt.Errorf("load: %d payload bytes: want 0 to %d", l.Bytes, MaxBytes)
	case l.Patience < 0:
		return fmt.Errorf("load: patience of %s", l.Patience)
	case l.PerSecond < 0:
		return fmt.Errorf("load: %g connections per second", l.PerSecond)
	case l.FirstID+uint64(l.Connections) > MaxID:
		return fmt.Errorf("load: IDs above %d", uint64(MaxID))
	case l.UDP && l.Bytes > MaxDatagram:
		return fmt.Errorf("load: %d payload bytes in a datagram: want 0 to %d", l.Bytes, MaxDatagram)
	case l.Datagrams < 0 || (!l.UDP && (l.Datagrams > 0 || l.Unconnected)):
		return fmt.Errorf("load: datagrams or no connect are for UDP")
	case l.HTTP != nil && (l.UDP || l.Bytes != 0 || l.ServerFirst || l.Bind.IsValid()):
		return errors.New("load: HTTP has neither datagrams, payload, a server that speaks first nor a bound address")
	case l.HTTP != nil && (l.HTTP.Requests < 1 || (l.HTTP.Close && l.HTTP.Requests > 1)):
		return fmt.Errorf("load: %d requests on one HTTP connection", l.HTTP.Requests)
	case l.UDP && l.ServerFirst:
		return errors.New("load: a UDP server does not speak first")
	case l.Bind.IsValid() && l.Bind.Addr().Is4() != l.To.Addr().Is4():
		return fmt.Errorf("load: bind %s and connect to %s are not of one family", l.Bind, l.To)
	}
	return nil
}

// patience is how long every worker of a client waits in connections that fail before
// the client gives up. What fails at once takes next to nothing of it.
const patience = 30 * time.Second

// patienceOf is what all workers of a load may wait, together.
func (l Load) patienceOf() time.Duration {
	each := l.Patience
	if each == 0 {
		each = patience
	}
	return each * time.Duration(max(l.Workers, 1))
}

// waited is how long a connection that failed has kept its worker waiting: since it, or
// the last request on it, was begun.
func (c Conn) waited() time.Duration {
	if c.Errno == "" {
		return 0
	}
	since := c.Start
	if n := len(c.Requests); n > 0 {
		since = c.Requests[n-1].Start
	}
	return time.Duration(c.End - since)
}

// client is the child process that makes connections: the Load comes as JSON on
// in, one JSON line per connection goes to out.
func client(in io.Reader, out io.Writer) error {
	var l Load
	if err := json.NewDecoder(in).Decode(&l); err != nil {
		return fmt.Errorf("read load: %w", err)
	}
	if err := l.Check(); err != nil {
		return err
	}
	lines := newLineWriter(out)
	work(l, func(c Conn) { lines.put(c) })
	return lines.close()
}

// work makes the connections of l and hands each to done, from any worker. It ends early
// when the patience of l is at its end.
func work(l Load, done func(Conn)) {
	var next, waited atomic.Int64
	over := func(c Conn) {
		waited.Add(int64(c.waited()))
		done(c)
	}
	var wg sync.WaitGroup
	start := time.Now()
	for range max(l.Workers, 1) {
		wg.Go(func() {
			d := newDialer(l)
			for {
				i := next.Add(1) - 1
				if i >= int64(l.Connections) || waited.Load() >= int64(l.patienceOf()) {
					return
				}
				if l.PerSecond > 0 {
					due := time.Duration(float64(i) / l.PerSecond * float64(time.Second))
					time.Sleep(time.Until(start.Add(due)))
				}
				id := l.FirstID + uint64(i)
				switch {
				case l.UDP:
					over(d.socket(id))
				case l.HTTP != nil:
					over(d.requests(id, func() { done(Conn{Role: Progress, ID: id}) }))
				default:
					over(d.connection(id))
				}
			}
		})
	}
	wg.Wait()
}
