package web

import (
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// now is CLOCK_MONOTONIC, the same for all processes of a machine.
func now() int64 {
	var t unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) // fails for no clock that there is
	return t.Nano()
}

// Now is the time in which Samples are counted.
func Now() int64 { return now() }

// told is closed when the parent has closed the child's input.
func told() <-chan struct{} {
	done := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(done)
	}()
	return done
}

// watch makes requests until it is told to end: PerSecond on each of Conns connections
// that are kept, and as many, each on a connection of its own, from Count workers.
func watch(t Task) (r Result, err error) {
	end := told()
	fmt.Fprintln(os.Stderr, "watching")
	var mu sync.Mutex
	var wg sync.WaitGroup
	var dials atomic.Int64
	worker := func(conn int, close bool) {
		one := t
		one.Close = close
		own := &dials
		if close {
			own = new(atomic.Int64)
		}
		c := client(one, own)
		defer c.CloseIdleConnections()
		tick := time.NewTicker(time.Duration(float64(time.Second) / t.PerSecond))
		defer tick.Stop()
		for {
			select {
			case <-end:
				return
			case <-tick.C:
			}
			s := Sample{Start: now(), Conn: conn}
			key, _, body, err := request(c, one)
			s.End, s.Server = now(), key
			if err != nil {
				s.Error = err.Error()
			} else if len(key) == 3 {
				s.Server, s.Error = "", key+" "+body
			}
			mu.Lock()
			r.Samples = append(r.Samples, s)
			mu.Unlock()
		}
	}
	for i := range t.Conns {
		wg.Go(func() { worker(i, false) })
	}
	for range t.Count {
		wg.Go(func() { worker(-1, true) })
	}
	wg.Wait()
	r.Dials = int(dials.Load())
	slices.SortFunc(r.Samples, func(a, b Sample) int { return int(a.End - b.End) })
	for _, s := range r.Samples {
		if s.Error != "" {
			if r.Failed++; r.Failed == 1 {
				r.First = s.Error
			}
		}
	}
	return r, nil
}

// hold opens Conns connections to a server that speaks first, keeps them until it is told
// to end, and says how many still echo then.
func hold(t Task) (r Result, err error) {
	end := told()
	r.Got = map[string]int{}
	lines := make([]*line, t.Conns)
	var wg sync.WaitGroup
	var mu sync.Mutex
	fail := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		if r.Failed++; r.Failed == 1 {
			r.First = err.Error()
		}
	}
	next := make(chan int)
	for range 32 {
		wg.Go(func() {
			for i := range next {
				l, err := dialLine(t.Address)
				if err != nil {
					fail(err)
					continue
				}
				lines[i] = l
			}
		})
	}
	for i := range lines {
		next <- i
	}
	close(next)
	wg.Wait()
	fmt.Fprintln(os.Stderr, "holding")
	<-end
	for _, l := range lines {
		if l == nil {
			continue
		}
		r.Dials++
		if err := l.echo(); err != nil {
			fail(err)
		} else {
			r.Got[l.name]++
		}
		l.Close()
	}
	return r, nil
}
