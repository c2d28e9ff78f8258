package web

import (
	"context"
	"crypto/sha1"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"
	pb "google.golang.org/grpc/interop/grpc_testing"
)

// serve serves on all ports until the process is ended.
func serve(name string) error {
	s := &server{name: name, tries: map[string]int{}, paths: map[string]int{}}
	failed := make(chan error)
	for port, handle := range map[int]func(net.Conn){BulkPort: s.bulk, BannerPort: s.banner} {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			return err
		}
		go func() { failed <- each(l, handle) }()
	}
	for port, serve := range map[int]func(net.Listener) error{HTTPPort: s.http().Serve, GRPCPort: s.grpc().Serve} {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			return err
		}
		go func() { failed <- serve(l) }()
	}
	return <-failed
}

func each(l net.Listener, handle func(net.Conn)) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go handle(c)
	}
}

type server struct {
	pb.UnimplementedTestServiceServer
	name string

	mu    sync.Mutex
	tries map[string]int // by the request's id
	paths map[string]int
}

func (s *server) http() *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("/", s.say)
	mux.HandleFunc("/echo/", s.echo)
	mux.HandleFunc("/flaky", s.flaky)
	mux.HandleFunc("/slow", s.slow)
	mux.HandleFunc("/bad", s.bad)
	mux.HandleFunc("/sse", s.events)
	mux.HandleFunc("/ws", s.upgrade)
	mux.HandleFunc("/seen/", s.seen)
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{Handler: mux, Protocols: protocols, ReadHeaderTimeout: time.Minute}
}

func (s *server) say(out http.ResponseWriter, q *http.Request) {
	s.mu.Lock()
	s.paths[q.URL.Path]++
	s.mu.Unlock()
	io.Copy(io.Discard, q.Body)
	out.Header().Set("x-server", s.name)
	out.Header().Set("x-protocol", q.Proto)
	io.WriteString(out, s.name)
}

// seen says how many requests there were for the path behind /seen.
func (s *server) seen(out http.ResponseWriter, q *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprint(out, s.paths[q.URL.Path[len("/seen"):]])
}

// echo says what arrived.
func (s *server) echo(out http.ResponseWriter, q *http.Request) {
	json.NewEncoder(out).Encode(map[string]string{
		"server": s.name, "method": q.Method, "path": q.URL.Path, "host": q.Host, "protocol": q.Proto, "peer": q.RemoteAddr,
	})
}

// flaky fails so often as the header x-fail says, for each x-id; x-slow fails by taking
// longer than anybody waits.
func (s *server) flaky(out http.ResponseWriter, q *http.Request) {
	fails, err := strconv.Atoi(q.Header.Get("x-fail"))
	if err != nil {
		http.Error(out, "x-fail: "+err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	s.tries[q.Header.Get("x-id")]++
	try := s.tries[q.Header.Get("x-id")]
	s.mu.Unlock()
	out.Header().Set("x-try", strconv.Itoa(try))
	switch {
	case try > fails:
		io.WriteString(out, s.name)
	case q.Header.Get("x-slow") != "":
		<-q.Context().Done()
	default:
		http.Error(out, s.name, http.StatusServiceUnavailable)
	}
}

// bad fails on the server that the header x-bad names.
func (s *server) bad(out http.ResponseWriter, q *http.Request) {
	if q.Header.Get("x-bad") == s.name {
		http.Error(out, s.name, http.StatusInternalServerError)
		return
	}
	io.WriteString(out, s.name)
}

// slow answers after the time of the header x-time.
func (s *server) slow(out http.ResponseWriter, q *http.Request) {
	d, err := time.ParseDuration(q.Header.Get("x-time"))
	if err != nil {
		http.Error(out, err.Error(), http.StatusBadRequest)
		return
	}
	select {
	case <-time.After(d):
		io.WriteString(out, s.name)
	case <-q.Context().Done():
	}
}

// events sends five events, each when the one before has gone out.
func (s *server) events(out http.ResponseWriter, q *http.Request) {
	out.Header().Set("content-type", "text/event-stream")
	control := http.NewResponseController(out)
	for i := range 5 {
		fmt.Fprintf(out, "data: %s %d\n\n", s.name, i)
		if control.Flush() != nil {
			return
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-q.Context().Done():
			return
		}
	}
}

// accepts is what RFC 6455 makes of a key.
func accepts(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// upgrade takes a WebSocket, and sends back every byte that comes.
func (s *server) upgrade(out http.ResponseWriter, q *http.Request) {
	key := q.Header.Get("Sec-WebSocket-Key")
	if key == "" {
		http.Error(out, "no WebSocket", http.StatusBadRequest)
		return
	}
	c, buffered, err := http.NewResponseController(out).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nx-server: %s\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		s.name, accepts(key))
	io.Copy(c, buffered)
}

func (s *server) grpc() *grpc.Server {
	g := grpc.NewServer()
	pb.RegisterTestServiceServer(g, s)
	return g
}

// UnaryCall says who it is.
func (s *server) UnaryCall(context.Context, *pb.SimpleRequest) (*pb.SimpleResponse, error) {
	return &pb.SimpleResponse{Hostname: s.name}, nil
}

// FullDuplexCall answers each message with its own payload.
func (s *server) FullDuplexCall(g grpc.BidiStreamingServer[pb.StreamingOutputCallRequest, pb.StreamingOutputCallResponse]) error {
	for {
		q, err := g.Recv()
		if err != nil {
			return nil //nolint:nilerr // the client's end
		}
		if err := g.Send(&pb.StreamingOutputCallResponse{Payload: q.Payload}); err != nil {
			return err
		}
	}
}

// banner speaks first and echoes then.
func (s *server) banner(c net.Conn) {
	defer c.Close()
	if _, err := fmt.Fprintln(c, s.name); err != nil {
		return
	}
	// Of the interfaces of both only these: splice(2) would take a pipe for each connection.
	io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
}
