package traffic

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

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

// ask fills c; on error c.Op says which call failed. There is no pool of connections
// beneath: one gives a connection up that is as good as ever where its own goroutines
// get no processor for a while (net/http: 50 ms), and dials another.
func (d *dialer) ask(c *Conn, half func()) error {
	dial := &onceDialer{to: d.load.To.String(), conn: c}
	defer dial.close()
	for i := range d.load.HTTP.Requests {
		r := Request{Start: Monotonic()}
		err := dial.open()
		if err == nil {
			c.Op = "request"
			err = d.request(dial, c.ID, &r)
		}
		r.End = Monotonic()
		c.Requests = append(c.Requests, r)
		if err != nil {
			return err
		}
		c.Op = ""
		if i == (d.load.HTTP.Requests-1)/2 {
			half()
		}
	}
	return nil
}

// request makes one request and reads its answer whole.
func (d *dialer) request(dial *onceDialer, id uint64, r *Request) error {
	q, err := d.newRequest(id)
	if err != nil {
		return err
	}
	if err := dial.tcp.SetDeadline(time.Now().Add(answerTimeout)); err != nil {
		return err
	}
	if err := q.Write(dial.tcp); err != nil {
		return err
	}
	answer, err := http.ReadResponse(dial.answers, q)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	r.Status, r.Server = answer.StatusCode, strings.TrimSpace(string(body))
	dial.over = answer.Close
	return err
}

func (d *dialer) newRequest(id uint64) (*http.Request, error) {
	q, err := http.NewRequest(http.MethodGet, "http://"+d.load.To.String()+"/", nil)
	if err != nil {
		return nil, err
	}
	q.Close = d.load.HTTP.Close
	q.Header.Set(idHeader, strconv.FormatUint(id, 10))
	for name, value := range d.load.HTTP.Headers {
		q.Header.Set(name, value)
	}
	return q, nil
}

// onceDialer dials one connection of a load, and never another.
type onceDialer struct {
	to   string
	conn *Conn
	tcp  net.Conn
	// answers reads from tcp.
	answers *bufio.Reader
	over    bool // an answer said that no other follows on this connection
}

// open dials, once.
func (o *onceDialer) open() error {
	switch {
	case o.over:
		o.conn.Op = "request"
		return errAgain
	case o.tcp != nil:
		return nil
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
	tcp, err := dialer.Dial("tcp", o.to)
	if err != nil {
		return err
	}
	o.tcp, o.answers, o.conn.Connected = tcp, bufio.NewReader(tcp), Monotonic()
	if err := o.ends(); err != nil {
		return err
	}
	o.conn.Op = ""
	return nil
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
