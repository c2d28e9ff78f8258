package web

import (
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// A way to break off, on a connection that is open.
var breaks = map[string]func(c *net.TCPConn) error{
	"at once": func(*net.TCPConn) error { return nil },
	"after half of a request": func(c *net.TCPConn) error {
		_, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: ec")
		return err
	},
	"after a request": func(c *net.TCPConn) error {
		_, err := io.WriteString(c, "GET /slow HTTP/1.1\r\nHost: echo\r\nx-time: 10s\r\n\r\n")
		return err
	},
	"in the middle of an upload": func(c *net.TCPConn) error {
		_, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: echo\r\nContent-Length: 1000000\r\n\r\nbegun")
		return err
	},
	"in the middle of an answer": func(c *net.TCPConn) error {
		if _, err := io.WriteString(c, "GET /sse HTTP/1.1\r\nHost: echo\r\n\r\n"); err != nil {
			return err
		}
		_, err := io.ReadFull(c, make([]byte, 16))
		return err
	},
	"after an answer": func(c *net.TCPConn) error {
		if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: echo\r\n\r\n"); err != nil {
			return err
		}
		_, err := io.ReadFull(c, make([]byte, 16))
		return err
	},
}

// abort makes Count connections for each way to break off, by a reset and by closing, and
// says how many.
func abort(t Task) (r Result, err error) {
	r.Got = map[string]int{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for name, act := range breaks {
		for how, linger := range map[string]int{"reset": 0, "close": -1} {
			wg.Go(func() {
				for range t.Count {
					one := breakOff(t.Address, linger, act)
					mu.Lock()
					r.Dials++
					r.Got[how+" "+name]++
					if one != nil {
						if r.Failed++; r.Failed == 1 {
							r.First = fmt.Sprintf("%s %s: %v", how, name, one)
						}
					}
					mu.Unlock()
				}
			})
		}
	}
	wg.Wait()
	return r, nil
}

func breakOff(address string, linger int, act func(*net.TCPConn) error) error {
	c, err := net.DialTimeout("tcp", address, dialTime)
	if err != nil {
		return err
	}
	defer c.Close()
	tcp := c.(*net.TCPConn)
	tcp.SetDeadline(time.Now().Add(dialTime)) // fails only on a closed connection
	if err := act(tcp); err != nil {
		return err
	}
	return tcp.SetLinger(linger)
}
