package traffic

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// errAgain says that the connection of a load was closed before its last request.
var errAgain = errors.New("the connection was closed before the last request")

// requests makes one HTTP connection and all its requests. half is called when half of
// them are through.
func (d *dialer) requests(id uint64, half func()) Conn {
	c := Conn{Role: Client, ID: id, Asked: d.load.To}
	if err := d.ask(&c, half); err != nil {
		c.Errno = errnoName(err)
	}
	c.End = Monotonic()
	return c
}

// ask fills c; on error c.Op says which call failed.
func (d *dialer) ask(c *Conn, half func()) error {
	h := d.load.HTTP
	dial := &onceDialer{to: d.load.To.String(), conn: c}
	transport := &http.Transport{
		DialContext: dial.dial, DisableCompression: true, MaxConnsPerHost: 1, ResponseHeaderTimeout: answerTimeout,
	}
	defer dial.close()
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: connectTimeout + answerTimeout}
	for i := range h.Requests {
		r, err := d.request(client, c.ID)
		c.Requests = append(c.Requests, r)
		if err != nil {
			if dial.err != nil {
				return dial.err
			}
			c.Op = "request"
			return err
		}
		if i == (h.Requests-1)/2 {
			half()
		}
	}
	return nil
}

// request makes one request and reads its answer whole.
func (d *dialer) request(client *http.Client, id uint64) (r Request, err error) {
	r.Start = Monotonic()
	defer func() { r.End = Monotonic() }()
	q, err := http.NewRequest(http.MethodGet, "http://"+d.load.To.String()+"/", nil)
	if err != nil {
		return r, err
	}
	q.Close = d.load.HTTP.Close
	q.Header.Set(idHeader, strconv.FormatUint(id, 10))
	for name, value := range d.load.HTTP.Headers {
		q.Header.Set(name, value)
	}
	answer, err := client.Do(q)
	if err != nil {
		return r, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	r.Status, r.Server = answer.StatusCode, strings.TrimSpace(string(body))
	return r, err
}

// onceDialer dials one connection of a load, and never another.
type onceDialer struct {
	to   string
	conn *Conn
	tcp  net.Conn
	err  error // of the dial
}

func (o *onceDialer) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	if o.tcp != nil {
		return nil, errAgain
	}
	o.conn.Op, o.conn.Start = "connect", Monotonic()
	dialer := net.Dialer{Timeout: connectTimeout, KeepAlive: -1, Control: func(_, _ string, raw syscall.RawConn) error {
		var get error
		err := raw.Control(func(fd uintptr) {
			o.conn.Cookie, get = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_COOKIE)
			// The time of the connect itself, not of what comes before it.
			o.conn.Start = Monotonic()
		})
		return errors.Join(err, get)
	}}
	tcp, err := dialer.DialContext(ctx, "tcp", o.to)
	if err != nil {
		o.err = err
		return nil, err
	}
	o.tcp, o.conn.Connected = tcp, Monotonic()
	if o.err = o.ends(); o.err != nil {
		return nil, o.err
	}
	o.conn.Op = ""
	return tcp, nil
}

// ends reads both addresses of the connected socket.
func (o *onceDialer) ends() error {
	raw, err := o.tcp.(*net.TCPConn).SyscallConn()
	if err != nil {
		return err
	}
	var get error
	err = raw.Control(func(fd uintptr) { get = ends(int(fd), o.conn) })
	return errors.Join(err, get)
}

// close ends the connection by a reset: neither end keeps it in TIME_WAIT.
func (o *onceDialer) close() {
	if o.tcp == nil {
		return
	}
	o.tcp.(*net.TCPConn).SetLinger(0) // fails only on a closed socket
	o.tcp.Close()
}
