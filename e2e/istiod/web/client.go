package web

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	pb "google.golang.org/grpc/interop/grpc_testing"
)

// do does a client's task.
func do(t Task) Result {
	start := time.Now()
	tasks := map[string]func(Task) (Result, error){
		"http": requests, "websocket": websocket, "events": events, "grpc": unary, "stream": stream,
		"bulk": bulk, "banners": banners, "hold": hold, "watch": watch, "abort": abort,
	}
	f := tasks[t.Do]
	if f == nil {
		return Result{Error: "no such task: " + t.Do}
	}
	r, err := f(t)
	if err != nil {
		r.Error = err.Error()
	}
	r.Took = time.Since(start).Seconds()
	return r
}

// client is an HTTP client that counts its dials. It keeps one connection.
func client(t Task, dials *atomic.Int64) *http.Client {
	dial := (&net.Dialer{Timeout: dialTime}).DialContext
	if t.HBONE != nil {
		dial = t.HBONE.dial
	}
	transport := &http.Transport{
		DisableCompression: true, DisableKeepAlives: t.Close, MaxConnsPerHost: 1,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			dials.Add(1)
			return dial(ctx, network, address)
		},
	}
	if t.H2C {
		transport.Protocols = new(http.Protocols)
		transport.Protocols.SetUnencryptedHTTP2(true)
	}
	return &http.Client{Transport: transport, Timeout: 20 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
}

// request makes one request. An answer without status 200 counts as "status text".
func request(c *http.Client, t Task) (key string, header http.Header, body string, err error) {
	method := t.Method
	if method == "" {
		method = http.MethodGet
	}
	q, err := http.NewRequestWithContext(context.Background(), method, t.URL, strings.NewReader(t.Body))
	if err != nil {
		return "", nil, "", err
	}
	for name, value := range t.Header {
		q.Header.Set(name, value)
		if strings.EqualFold(name, "host") {
			q.Host = value
		}
	}
	a, err := c.Do(q)
	if err != nil {
		return "", nil, "", err
	}
	defer a.Body.Close()
	data, err := io.ReadAll(a.Body)
	if err != nil {
		return "", nil, "", err
	}
	body = strings.TrimSpace(string(data))
	if a.StatusCode != http.StatusOK {
		return fmt.Sprintf("%d", a.StatusCode), a.Header, body, nil
	}
	return body, a.Header, body, nil
}

// requests makes Count requests over each of Conns connections.
func requests(t Task) (r Result, err error) {
	r.Got, r.Header = map[string]int{}, map[string]string{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	var dials atomic.Int64
	for range max(t.Conns, 1) {
		wg.Go(func() {
			c := client(t, &dials)
			defer c.CloseIdleConnections()
			for range max(t.Count, 1) {
				key, header, body, err := request(c, t)
				if err != nil {
					key = "error: " + err.Error()
				}
				mu.Lock()
				r.Got[key]++
				if err != nil || len(key) == 3 {
					if r.Failed++; r.Failed == 1 {
						r.First = key + " " + body
					}
				}
				r.Text = body
				for name := range header {
					r.Header[strings.ToLower(name)] = header.Get(name)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	r.Dials = int(dials.Load())
	return r, nil
}

// websocket upgrades a connection and hears what it says.
func websocket(t Task) (r Result, err error) {
	u, err := url.Parse(t.URL)
	if err != nil {
		return r, err
	}
	c, err := net.DialTimeout("tcp", u.Host+":80", dialTime)
	if err != nil {
		return r, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(dialTime)) // fails only on a closed connection
	raw := make([]byte, 16)
	rand.Read(raw) // never fails (crypto/rand)
	key := base64.StdEncoding.EncodeToString(raw)
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n",
		u.Path, u.Host, key)
	in := bufio.NewReader(c)
	a, err := http.ReadResponse(in, nil)
	if err != nil {
		return r, err
	}
	if a.StatusCode != http.StatusSwitchingProtocols || a.Header.Get("Sec-WebSocket-Accept") != accepts(key) {
		return r, fmt.Errorf("answered with %s", a.Status)
	}
	l := &line{Conn: c, in: in}
	for range max(t.Count, 1) {
		if err := l.echo(); err != nil {
			return r, err
		}
	}
	r.Got = map[string]int{a.Header.Get("x-server"): 1}
	return r, nil
}

// events reads server-sent events and says how many came, and whether the first came
// before the last was sent.
func events(t Task) (r Result, err error) {
	a, err := http.Get(t.URL)
	if err != nil {
		return r, err
	}
	defer a.Body.Close()
	r.Got = map[string]int{}
	lines, start := bufio.NewScanner(a.Body), time.Now()
	for lines.Scan() {
		if text, is := strings.CutPrefix(lines.Text(), "data: "); is {
			name, _, _ := strings.Cut(text, " ")
			r.Got[name]++
			r.Text += fmt.Sprintf("%d ", time.Since(start).Milliseconds())
		}
	}
	return r, lines.Err()
}

func dialGRPC(t Task) (pb.TestServiceClient, *grpc.ClientConn, error) {
	conn, err := grpc.NewClient("passthrough:///"+t.Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, nil, err
	}
	return pb.NewTestServiceClient(conn), conn, nil
}

// unary makes Count calls over one connection.
func unary(t Task) (r Result, err error) {
	c, conn, err := dialGRPC(t)
	if err != nil {
		return r, err
	}
	defer conn.Close()
	r.Got = map[string]int{}
	for range max(t.Count, 1) {
		ctx, cancel := context.WithTimeout(context.Background(), dialTime)
		a, err := c.UnaryCall(ctx, &pb.SimpleRequest{})
		cancel()
		if err != nil {
			return r, err
		}
		r.Got[a.Hostname]++
	}
	return r, nil
}

// stream sends Count messages over one stream, each after the last one's answer.
func stream(t Task) (r Result, err error) {
	c, conn, err := dialGRPC(t)
	if err != nil {
		return r, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 3*dialTime)
	defer cancel()
	g, err := c.FullDuplexCall(ctx)
	if err != nil {
		return r, err
	}
	for i := range max(t.Count, 1) {
		said := fmt.Appendf(nil, "message %d", i)
		if err := g.Send(&pb.StreamingOutputCallRequest{Payload: &pb.Payload{Body: said}}); err != nil {
			return r, err
		}
		a, err := g.Recv()
		if err != nil {
			return r, err
		}
		if string(a.Payload.Body) != string(said) {
			return r, fmt.Errorf("%q was said, %q heard", said, a.Payload.Body)
		}
	}
	if err := g.CloseSend(); err != nil {
		return r, err
	}
	if _, err := g.Recv(); !errors.Is(err, io.EOF) {
		return r, fmt.Errorf("the end of the stream is %w", err)
	}
	r.Got = map[string]int{"messages": max(t.Count, 1)}
	return r, nil
}
