package l7_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/duomesh/duomesh/dataplane/l7"
	"github.com/duomesh/duomesh/dataplane/l7/api"
)

// An istiod that did not know the waypoint's pod as the stream began names no service on
// it, for ever: it is asked anew.
func TestIstiodThatDoesNotKnowThePod(t *testing.T) {
	w, s := relaying(t, nil, 100*time.Millisecond, func(c *l7.Config) { c.Idle = time.Second })
	w.until(t, "with services", func(st api.Status) bool { return ready(st) && len(st.Services) > 0 })
	s.mu.Lock()
	streams := s.streams
	s.mu.Unlock()
	if streams < 2 {
		t.Errorf("%d streams: it was not asked anew", streams)
	}
	if status, body := newClient(t).get("http://" + echoVIP); status != http.StatusOK {
		t.Errorf("%d %s", status, body)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.streams != streams {
		t.Errorf("%d streams, and %d before: services are there", s.streams, streams)
	}
}
