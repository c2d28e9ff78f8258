package netsim

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
)

func TestRelay(t *testing.T) {
	echo, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	go func() {
		for {
			c, err := echo.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); io.Copy(c, c) }()
		}
	}()
	var down atomic.Bool
	r, err := openRelay(func() (net.Conn, error) {
		if down.Load() {
			return nil, errors.New("nobody")
		}
		return net.Dial("tcp4", echo.Addr().String())
	})
	if err != nil {
		t.Fatal(err)
	}
	ask := func() (string, error) {
		c, err := net.Dial("tcp4", r.address())
		if err != nil {
			return "", err
		}
		defer c.Close()
		if _, err := c.Write([]byte("hello")); err != nil {
			return "", err
		}
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			return "", err
		}
		all, err := io.ReadAll(c)
		return string(all), err
	}
	if got, err := ask(); got != "hello" || err != nil {
		t.Errorf("through the relay: %q, %v", got, err)
	}
	down.Store(true)
	if got, _ := ask(); got != "" {
		t.Errorf("with nobody behind it: %q", got)
	}
	down.Store(false)
	open, err := net.Dial("tcp4", r.address())
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	if err := r.close(); err != nil {
		t.Fatal(err)
	}
	io.ReadAll(open) // returns: by its end or a reset
	if _, err := ask(); err == nil {
		t.Error("a closed relay takes connections")
	}
}
