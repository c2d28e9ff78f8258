package traffic

import (
	"context"
	"errors"
	"testing"
)

func TestWitness(t *testing.T) {
	closed := Conn{ID: 1, Server: "v1"}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()

	var w Witness
	w.Client(Conn{ID: 9, Errno: "ECONNREFUSED"}) // no server ever sees it
	if err := w.Settle(cancelled); err != nil {
		t.Errorf("nothing to wait for: %v", err)
	}
	w.Client(closed)
	if err := w.Settle(cancelled); !errors.Is(err, context.Canceled) {
		t.Errorf("a connection that no server reported: %v, want to wait for it", err)
	}
	settled := make(chan error)
	go func() { settled <- w.Settle(t.Context()) }()
	w.Server("v1", closed)
	if err := <-settled; err != nil {
		t.Error(err)
	}
	w.Server("v1", Conn{ID: 2, Server: "v1"}) // the server is faster
	w.Client(Conn{ID: 2, Server: "v1"})
	if err := w.Settle(cancelled); err != nil {
		t.Errorf("reported before it was closed: %v", err)
	}
	if got := w.Served(); len(got["v1"]) != 2 {
		t.Errorf("served %v, want two lines of v1", got)
	}
}
