package traffic

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// SilentError: servers did not tell all that they saw.
type SilentError struct {
	// Pods is why, by pod.
	Pods map[string]error
}

// Error names them in order.
func (e *SilentError) Error() string {
	var all []string
	for _, pod := range slices.Sorted(maps.Keys(e.Pods)) {
		all = append(all, fmt.Sprintf("pod %s: %v", pod, e.Pods[pod]))
	}
	return strings.Join(all, "; ")
}

// Unwrap returns all causes.
func (e *SilentError) Unwrap() []error { return slices.Collect(maps.Values(e.Pods)) }

// collectTime bounds how long Collect waits for servers, and then for what clients have
// closed.
const collectTime = 15 * time.Second

// Collect returns what all servers saw, by pod: every connection that clients have
// closed is in it. Of servers that do not tell it returns what they have told, and a
// SilentError.
func (w *Witness) Collect(ctx context.Context, servers map[string]*RemoteServer) (map[string][]Conn, error) {
	silent := syncAll(ctx, servers)
	limited, cancel := context.WithTimeout(ctx, collectTime)
	defer cancel()
	var more *SilentError
	if err := w.Settle(limited, silent); errors.As(err, &more) {
		maps.Copy(silent, more.Pods)
	} else if err != nil {
		return nil, err
	}
	if len(silent) > 0 {
		return w.Served(), &SilentError{Pods: silent}
	}
	return w.Served(), nil
}

// syncAll asks all servers at once: one that is silent takes no time from the others. It
// returns why those that did not answer did not.
func syncAll(ctx context.Context, servers map[string]*RemoteServer) map[string]error {
	ctx, cancel := context.WithTimeout(ctx, collectTime)
	defer cancel()
	silent := map[string]error{}
	var mu sync.Mutex
	var all sync.WaitGroup
	for pod, r := range servers {
		all.Go(func() {
			if err := r.Sync(ctx); err != nil {
				mu.Lock()
				defer mu.Unlock()
				silent[pod] = err
			}
		})
	}
	all.Wait()
	return silent
}
