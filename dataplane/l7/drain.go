package l7

import (
	"context"
	"strings"
	"time"
)

// drainPoll is how often it is looked whether connections have ended.
const drainPoll = 100 * time.Millisecond

// drain lets connections end, and returns when the time for it is over. Clients are still
// sent here at first: that this waypoint ends reaches their nodes by and by.
func (w *Waypoint) drain() {
	w.draining.Store(true)
	if w.config.Drain <= 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), w.config.Drain)
	defer cancel()
	w.config.Log.Info("draining", "time", w.config.Drain, "at least", w.config.MinDrain)
	if err := w.envoy.Admin.Drain(ctx); err != nil {
		w.config.Log.Warn("Envoy does not drain", "error", err)
		return
	}
	awaitIdle(ctx, w.config.MinDrain, w.connections, w.envoy.Done())
}

// awaitIdle returns when nothing is connected any more, not before some time is over, or
// when ctx or what is connected to has ended.
func awaitIdle(ctx context.Context, least time.Duration, connections func(context.Context) (uint64, error), ended <-chan struct{}) {
	early := time.After(max(least, 0))
	select {
	case <-early:
	case <-ended:
		return
	case <-ctx.Done():
		return
	}
	tick := time.NewTicker(drainPoll)
	defer tick.Stop()
	for {
		if n, err := connections(ctx); err == nil && n == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-ended:
			return
		case <-ctx.Done():
			return
		}
	}
}

// connections are those that clients have to Envoy.
func (w *Waypoint) connections(ctx context.Context) (uint64, error) {
	all, err := w.envoy.Admin.Counters(ctx, `^listener\..*\.downstream_cx_active$`)
	return ofClients(all), err
}

// ofClients sums Envoy's gauges of connections, whatever way they came: handed over, by
// HBONE, and inside of that. Its admin listener's are ours.
func ofClients(all map[string]uint64) uint64 {
	n := uint64(0)
	for name, active := range all {
		if !strings.HasPrefix(name, "listener.admin.") {
			n += active
		}
	}
	return n
}
