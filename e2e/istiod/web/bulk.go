package web

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"time"
)

// A bulk connection: the client says how many bytes it wants and sends its own, which are
// the bytes of a known sequence, to the end of its half; the server answers with the
// SHA-256 of what came and so many bytes of that sequence.

// sequence are n bytes that both ends know.
func sequence(n int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{7}), n)
}

func digest(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }

func (s *server) bulk(c net.Conn) {
	defer c.Close()
	var down int64
	if binary.Read(c, binary.BigEndian, &down) != nil {
		return
	}
	h := sha256.New()
	n, err := io.Copy(h, c)
	if err != nil {
		return
	}
	out := bufio.NewWriterSize(c, 1<<20)
	fmt.Fprintf(out, "%s %d %s\n", s.name, n, digest(h))
	io.Copy(out, sequence(down))
	out.Flush()
}

// bulk moves Up bytes to the server and Down bytes back over a connection whose client
// half is closed meanwhile, and says whether all arrived as they were sent.
func bulk(t Task) (r Result, err error) {
	c, err := net.DialTimeout("tcp", t.Address, dialTime)
	if err != nil {
		return r, err
	}
	defer c.Close()
	r.Dials = 1
	if err := binary.Write(c, binary.BigEndian, t.Down); err != nil {
		return r, err
	}
	sent := sha256.New()
	if _, err := io.Copy(c, io.TeeReader(sequence(t.Up), sent)); err != nil {
		return r, fmt.Errorf("send: %w", err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return r, err
	}
	in := bufio.NewReaderSize(c, 1<<20)
	line, err := in.ReadString('\n')
	if err != nil {
		return r, fmt.Errorf("read the answer: %w", err)
	}
	name, told, _ := strings.Cut(strings.TrimSpace(line), " ")
	if want := fmt.Sprintf("%d %s", t.Up, digest(sent)); told != want {
		return r, fmt.Errorf("the server got %s, %s was sent", told, want)
	}
	got, want := sha256.New(), sha256.New()
	n, err := io.Copy(got, in)
	if err != nil {
		return r, fmt.Errorf("read: %w", err)
	}
	if _, err := io.Copy(want, sequence(t.Down)); err != nil {
		return r, err
	}
	if n != t.Down || digest(got) != digest(want) {
		return r, fmt.Errorf("%d bytes came, %d were asked for, or they are others", n, t.Down)
	}
	r.Got = map[string]int{name: 1}
	return r, nil
}

// banners waits on each of Count connections for the server's first line, says something
// and hears it again.
func banners(t Task) (r Result, err error) {
	r.Got = map[string]int{}
	for range max(t.Count, 1) {
		l, err := dialLine(t.Address)
		if err != nil {
			return r, err
		}
		r.Dials++
		err = l.echo()
		l.Close()
		if err != nil {
			return r, err
		}
		r.Got[l.name]++
	}
	return r, nil
}

// line is a connection to a server that speaks first.
type line struct {
	net.Conn
	in   *bufio.Reader
	name string
}

const dialTime = 10 * time.Second

func dialLine(address string) (*line, error) {
	c, err := net.DialTimeout("tcp", address, dialTime)
	if err != nil {
		return nil, err
	}
	l := &line{Conn: c, in: bufio.NewReader(c)}
	c.SetDeadline(time.Now().Add(dialTime)) // fails only on a closed connection
	if l.name, err = l.in.ReadString('\n'); err != nil {
		return nil, errors.Join(fmt.Errorf("the server's first line: %w", err), c.Close())
	}
	l.name = strings.TrimSpace(l.name)
	return l, nil
}

// echo says something and hears it again.
func (l *line) echo() error {
	l.SetDeadline(time.Now().Add(dialTime)) // fails only on a closed connection
	const said = "is anybody there?\n"
	if _, err := io.WriteString(l, said); err != nil {
		return err
	}
	heard, err := l.in.ReadString('\n')
	if err == nil && heard != said {
		err = fmt.Errorf("%q was said, %q heard", said, heard)
	}
	return err
}
