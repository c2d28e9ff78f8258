package follow

import (
	"slices"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/internal/probe/hops"
)

// The client's and the server's places among the roles; all others are between them.
const (
	client = iota
	server
)

// window is one request: from when the client began to send it, or to connect for it,
// until it had the whole answer.
type window struct {
	from, to int64
	events   []hops.Event // what happened in it, by any role
}

// windows finds the requests of a client that makes one at a time. With connects, each
// begins with the connection that it is the first request of.
func windows(events []hops.Event, connects bool) []window {
	var all []window
	var open *window
	closeAt := func() {
		if open != nil && open.to > open.from {
			all = append(all, *open)
		}
		open = nil
	}
	for _, e := range events {
		if e.Kind != hops.Call || e.Role != client {
			continue
		}
		connecting := e.Number == unix.SYS_CONNECT && connects
		switch {
		case connecting, e.Sent && !connects && (open == nil || open.to > 0):
			closeAt()
			open = &window{from: e.Began}
		case e.Read && open != nil:
			open.to = e.At
		}
	}
	closeAt()
	return fill(all, events)
}

// fill gives each window its events; what straddles an end belongs to none.
func fill(all []window, events []hops.Event) []window {
	begun := func(e hops.Event) int64 {
		if e.Kind == hops.Call {
			return e.Began
		}
		return e.At
	}
	for i := range all {
		w := &all[i]
		first, _ := slices.BinarySearchFunc(events, w.from, func(e hops.Event, at int64) int {
			if e.At < at {
				return -1
			}
			return 1
		})
		for _, e := range events[first:] {
			if e.At > w.to {
				break
			}
			// A read waits in the kernel from before the request on.
			if begun(e) >= w.from || e.Read {
				w.events = append(w.events, e)
			}
		}
	}
	return all
}
