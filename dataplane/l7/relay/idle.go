package relay

import (
	"context"
	"errors"
	"time"
)

// errIdle ends a stream on which istiod names no service.
var errIdle = errors.New("istiod names no service")

// How long a stream may be without a service: each time longer, since most waypoints
// without one have none.
const (
	firstIdle = 5 * time.Second
	mostIdle  = 2 * time.Minute
)

// idle says when istiod is to be asked anew. istiod finds the services of a waypoint by
// its pod, once, as the stream begins (computeProxyState in its pilot/pkg/xds/ads.go): one
// that did not know the pod yet goes on naming none until something else makes it look
// again, which may be never.
type idle struct{ first, next time.Duration }

func newIdle(first time.Duration) *idle {
	if first <= 0 {
		first = firstIdle
	}
	return &idle{first, first}
}

// wait reports whether a stream has been without a service for too long; it returns when
// ctx ends.
func (i *idle) wait(ctx context.Context, r *Relay) bool {
	timer := time.NewTimer(i.next)
	defer timer.Stop()
	for {
		s, changed := r.State()
		var spent <-chan time.Time
		if len(s.Hosts)+s.Workloads > 0 {
			i.next = i.first
			timer.Reset(i.next)
		} else {
			spent = timer.C
		}
		select {
		case <-spent:
			i.next = min(2*i.next, max(mostIdle, i.first))
			return true
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}
