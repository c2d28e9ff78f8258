package traffic

import (
	"net"
	"net/http"
	"testing"
)

// Both ends count the requests of a connection that is kept.
func TestRequestsOnOneConnection(t *testing.T) {
	s, port, seen := mustServe(t)
	progress := 0
	conns, err := RunClient(testContext(t), launch, Load{
		To: at("127.0.0.1", port), Connections: 3, Workers: 2, FirstID: 7, HTTP: &HTTP{Requests: 10, Headers: map[string]string{"x-a": "b"}},
	}, func(c Conn) {
		if c.Role == Progress {
			progress++
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	mustSync(t, s)
	if progress != 3 || len(conns) != 3 {
		t.Errorf("%d lines of progress and %d connections, want 3 and 3", progress, len(conns))
	}
	counted := map[uint64]int{}
	for _, c := range seen.get() {
		for id, n := range c.Served {
			counted[id] += n
		}
	}
	for _, c := range conns {
		if c.Errno != "" || len(c.Requests) != 10 || c.Peer != at("127.0.0.1", port) || c.Cookie == 0 || c.Connected < c.Start {
			t.Errorf("connection %+v", c)
		}
		for _, r := range c.Requests {
			if r.Status != 200 || r.Server != "srv" || r.End < r.Start {
				t.Errorf("request %+v", r)
			}
		}
		if counted[c.ID] != 10 {
			t.Errorf("the server counts %d requests of connection %d", counted[c.ID], c.ID)
		}
	}
	if len(seen.get()) != 3 {
		t.Errorf("%d connections at the server, want 3", len(seen.get()))
	}
}

func TestRequestThatClosesItsConnection(t *testing.T) {
	_, port, _ := mustServe(t)
	conns, err := RunClient(testContext(t), launch, Load{
		To: at("127.0.0.1", port), Connections: 20, Workers: 2, FirstID: 1, HTTP: &HTTP{Requests: 1, Close: true},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range conns {
		if c.Errno != "" || len(c.Requests) != 1 || c.Requests[0].Server != "srv" {
			t.Errorf("connection %+v", c)
		}
	}
}

func TestServerThatSpeaksFirst(t *testing.T) {
	port := freePort(t)
	seen := new(lines)
	s, err := StartServer(testContext(t), launch, ServerConfig{Name: "srv", First: []uint16{port}}, seen.add)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	conns, err := RunClient(testContext(t), launch, Load{
		To: at("127.0.0.1", port), Connections: 20, Workers: 2, FirstID: 1, Bytes: 100, ServerFirst: true,
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	mustSync(t, s)
	for _, c := range conns {
		if c.Errno != "" || c.Server != "srv" || c.Sent != 100 || c.Received != 100 {
			t.Errorf("connection %+v", c)
		}
	}
	join(t, conns, seen.get())
}

// A load is not made on a second connection where the first one ended early.
func TestConnectionThatEndsEarly(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Connection", "close") }))
	conns, err := RunClient(testContext(t), launch, Load{
		To: l.Addr().(*net.TCPAddr).AddrPort(), Connections: 2, Workers: 1, FirstID: 1, HTTP: &HTTP{Requests: 3},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(conns) != 2 {
		t.Errorf("%d connections, want 2", len(conns))
	}
	for _, c := range conns {
		if c.Errno != errAgain.Error() || c.Op != "request" || len(c.Requests) != 2 || c.Requests[0].Status != 200 || c.Requests[1].Status != 0 {
			t.Errorf("connection %+v", c)
		}
	}
}
