package ambient

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// peer is a scripted node proxy: what it does with its connection.
type peer func(t *testing.T, c *net.UnixConn)

// script lets a peer talk to a server of two pods and returns how it ended.
func script(t *testing.T, p peer) error {
	t.Helper()
	path := filepath.Join(t.TempDir(), "zds")
	var pods []Pod
	for _, name := range []string{"one", "two"} {
		f, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		pods = append(pods, Pod{Name: name, ServiceAccount: "account-" + name, Netns: f})
	}
	z, err := serveZDS(path, pods)
	if err != nil {
		t.Fatal(err)
	}
	z.patience = time.Second // before anybody connects
	t.Cleanup(func() { z.close() })
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	p(t, c)
	return <-z.ended
}

func write(t *testing.T, c *net.UnixConn, b []byte) {
	t.Helper()
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
}

// receive reads one request, and the inode of the descriptor that came with it.
func receive(t *testing.T, c *net.UnixConn) (ZDSRequest, uint64) {
	t.Helper()
	b, oob := make([]byte, 1024), make([]byte, 256)
	n, oobn, flags, _, err := c.ReadMsgUnix(b, oob)
	if err != nil || flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		t.Fatalf("read: %v, flags %x", err, flags)
	}
	r, err := DecodeZDSRequest(b[:n])
	if err != nil {
		t.Fatal(err)
	}
	if oobn == 0 {
		return r, 0
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) != 1 {
		t.Fatalf("%d control messages, %v", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		t.Fatalf("descriptors %v, %v: exactly one is due", fds, err)
	}
	var st unix.Stat_t
	if err := errors.Join(unix.Fstat(fds[0], &st), unix.Close(fds[0])); err != nil {
		t.Fatal(err)
	}
	return r, st.Ino
}

// TestHandOver replays what a ztunnel does: hello first, one acknowledgement per
// message, pods with exactly one descriptor, the snapshot last and without any.
func TestHandOver(t *testing.T) {
	var own unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &own); err != nil {
		t.Fatal(err)
	}
	err := script(t, func(t *testing.T, c *net.UnixConn) {
		write(t, c, []byte{0x08, 0x01}) // the bytes of a real ztunnel's hello
		for _, name := range []string{"one", "two"} {
			r, inode := receive(t, c)
			want := ZDSPod{UID: "cluster1//v1/Pod/default/" + name, Name: name, Namespace: "default", ServiceAccount: "account-" + name}
			if r.Add == nil || *r.Add != want || inode != own.Ino {
				t.Errorf("got %+v with namespace %d, want %+v with %d", r.Add, inode, want, own.Ino)
			}
			write(t, c, []byte{0x0a, 0x00}) // its acknowledgement
		}
		if r, inode := receive(t, c); !r.SnapshotSent || inode != 0 {
			t.Errorf("after the pods: %+v, descriptor %d", r, inode)
		}
		write(t, c, EncodeAck(nil))
	})
	if err != nil {
		t.Error(err)
	}
}

// TestHandOverFails: what a proxy may do wrong is named.
func TestHandOverFails(t *testing.T) {
	hello := EncodeHello()
	for name, c := range map[string]struct {
		peer peer
		want string
	}{
		"hangs up at once":      {func(_ *testing.T, c *net.UnixConn) { c.Close() }, "hello"},
		"speaks another tongue": {func(t *testing.T, c *net.UnixConn) { write(t, c, []byte{0x08, 0x07}) }, "version 7"},
		"says rubbish":          {func(t *testing.T, c *net.UnixConn) { write(t, c, []byte{0xff}) }, "cut short"},
		"refuses a pod": {func(t *testing.T, c *net.UnixConn) {
			write(t, c, hello)
			receive(t, c)
			write(t, c, EncodeAck(errors.New("no such workload")))
		}, "hand over pod one: the node proxy refuses: no such workload"},
		"acknowledges nothing": {func(t *testing.T, c *net.UnixConn) {
			write(t, c, hello)
			receive(t, c)
			write(t, c, hello)
		}, "no acknowledgement"},
		"never acknowledges": {func(t *testing.T, c *net.UnixConn) {
			write(t, c, hello)
			receive(t, c)
		}, "wait for the acknowledgement"},
		"hangs up before the end": {func(t *testing.T, c *net.UnixConn) {
			write(t, c, hello)
			receive(t, c)
			write(t, c, EncodeAck(nil))
			receive(t, c)
			write(t, c, EncodeAck(nil))
			receive(t, c)
			c.Close()
		}, "end the snapshot"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := script(t, c.peer); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q in it", err, c.want)
			}
		})
	}
}
