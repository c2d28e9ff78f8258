package traffic

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestWitness(t *testing.T) {
	closed := Conn{ID: 1, Server: "v1"}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()

	var w Witness
	w.Client(Conn{ID: 9, Errno: "ECONNREFUSED"}) // no server ever sees it
	if err := w.Settle(cancelled, nil); err != nil {
		t.Errorf("nothing to wait for: %v", err)
	}
	w.Client(closed)
	if err := w.Settle(cancelled, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("a connection that no server reported: %v, want to wait for it", err)
	}
	var silent *SilentError
	if err := w.Settle(cancelled, nil); !errors.As(err, &silent) || silent.Pods["v1"] == nil {
		t.Errorf("%v, want v1 named as silent", err)
	}
	if err := w.Settle(cancelled, map[string]error{"v1": errors.New("killed")}); err != nil {
		t.Errorf("a silent server is waited for: %v", err)
	}
	settled := make(chan error)
	go func() { settled <- w.Settle(t.Context(), nil) }()
	w.Server("v1", closed)
	if err := <-settled; err != nil {
		t.Error(err)
	}
	w.Server("v1", Conn{ID: 2, Server: "v1"}) // the server is faster
	w.Client(Conn{ID: 2, Server: "v1"})
	if err := w.Settle(cancelled, nil); err != nil {
		t.Errorf("reported before it was closed: %v", err)
	}
	if got := w.Served(); len(got["v1"]) != 2 {
		t.Errorf("served %v, want two lines of v1", got)
	}
}

// A client whose connections fail makes no more once its patience is over, and what it
// saw is returned; without such failures it makes all.
func TestClientGivesUp(t *testing.T) {
	dead := Load{To: at("127.0.0.1", freePort(t)), Connections: 50, Workers: 1}
	if conns, err := RunClient(testContext(t), launch, dead, nil); err != nil || len(conns) != 50 {
		t.Errorf("the control: %d connections, %v", len(conns), err)
	}
	dead.Patience = 1
	conns, err := RunClient(testContext(t), launch, dead, nil)
	if !errors.Is(err, ErrGaveUp) || len(conns) != 1 || conns[0].Errno != "ECONNREFUSED" {
		t.Errorf("%+v, %v; want one connection and %v", conns, err, ErrGaveUp)
	}
	// Who says nothing waits half a minute for each worker (docs/scenarios.md).
	if all := (Load{Workers: 4}).patienceOf(); all != 2*time.Minute {
		t.Errorf("four workers wait %v together", all)
	}
}
