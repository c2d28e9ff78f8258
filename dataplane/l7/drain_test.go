package l7

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// Draining lasts as long as clients may still be sent here, then as long as there are
// connections, and no longer than it may.
func TestDrainingLasts(t *testing.T) {
	const least, most = 5 * time.Second, 20 * time.Second
	for name, c := range map[string]struct{ busy, want time.Duration }{
		"nothing is connected":           {0, least},
		"what is connected ends":         {8 * time.Second, 8 * time.Second},
		"what is connected never ends":   {time.Hour, most},
		"what is connected ends at once": {time.Second, least},
	} {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), most)
			defer cancel()
			awaitIdle(ctx, least, func(context.Context) (uint64, error) {
				if time.Since(start) < c.busy {
					return 1, nil
				}
				return 0, nil
			}, nil)
			if got := time.Since(start); got != c.want {
				t.Errorf("%s: %s, want %s", name, got, c.want)
			}
		})
	}
}

// A connection counts by whatever way it came; what asks Envoy itself does not.
func TestConnectionsOfClients(t *testing.T) {
	for name, want := range map[string]uint64{
		"listener.handoff_direct.downstream_cx_active":               1,
		"listener.handoff_proxy.downstream_cx_active":                1,
		"listener.0.0.0.0_15008.downstream_cx_active":                1,
		"listener.envoy_internal_main_internal.downstream_cx_active": 1,
		"listener.admin.downstream_cx_active":                        0,
		"listener.admin.main_thread.downstream_cx_active":            0,
	} {
		if got := ofClients(map[string]uint64{name: 1}); got != want {
			t.Errorf("%s counts %d, want %d", name, got, want)
		}
	}
}
