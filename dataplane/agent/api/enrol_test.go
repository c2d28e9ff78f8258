package api

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// send hands raw bytes and descriptors to ReadRequest.
func send(t *testing.T, line string, fds ...int) (Request, Files, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.WriteMsgUnix([]byte(line), unix.UnixRights(fds...), nil); err != nil {
		t.Fatal(err)
	}
	c.Close()
	server, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	return ReadRequest(server)
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// pair is a connection to an agent, and the agent's end of it.
func pair(t *testing.T) (asker, agent *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "end")
		c, err := net.FileConn(f)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		ends[i] = c.(*net.UnixConn)
	}
	return ends[0], ends[1]
}

// TestAgentThatEnds: it has closed the connection before it was asked. That it is absent is
// what the plugin goes by.
func TestAgentThatEnds(t *testing.T) {
	asker, agent := pair(t)
	if err := agent.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := exchange(asker, Request{Op: OpList}, nil); !errors.Is(err, ErrAbsent) || !errors.Is(err, unix.EPIPE) {
		t.Errorf("nobody reads: %v", err)
	}
	// What it has said before it closed is an answer.
	asker, agent = pair(t)
	if _, err := agent.Write([]byte(`{"version":1,"error":"user 7 may not enrol"}` + "\n")); err != nil {
		t.Fatal(err)
	}
	if err := agent.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := exchange(asker, Request{Op: OpList}, nil); errors.Is(err, ErrAbsent) || err == nil || err.Error() != "user 7 may not enrol" {
		t.Errorf("it has refused: %v", err)
	}
}

// TestAskerThatGoes: a connection that is reset is an error of that one, whatever was said.
func TestAskerThatGoes(t *testing.T) {
	asker, agent := pair(t)
	if _, err := agent.Write([]byte("unread")); err != nil {
		t.Fatal(err)
	}
	if err := asker.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ReadRequest(agent); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("a connection that is reset: %v", err)
	}
}

func TestReadRequest(t *testing.T) {
	ns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	r, files, err := send(t, `{"version":1,"op":"enrol","pod":"default/a","files":["netns"]}`+"\n", int(ns.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	got := files.Take(FileNetns)
	if r.Op != OpEnrol || r.Pod != "default/a" || got == nil || len(files) != 0 {
		t.Fatalf("request %+v, files %v", r, files)
	}
	flags, err := unix.FcntlInt(got.Fd(), unix.F_GETFD, 0)
	if err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("a received descriptor would be inherited: %d, %v", flags, err)
	}
	if same, err := got.Stat(); err != nil || !os.SameFile(same, mustStat(t, ns)) {
		t.Errorf("another file has come: %v", err)
	}
	got.Close()
}

func mustStat(t *testing.T, f *os.File) os.FileInfo {
	t.Helper()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func TestReadRequestRefuses(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	fd := int(null.Fd())
	good := `{"version":1,"op":"list"}` + "\n"
	if _, _, err := send(t, good); err != nil {
		t.Fatalf("the request that the others differ from: %v", err)
	}
	before := openFiles(t)
	for name, c := range map[string]struct {
		line string
		fds  []int
		want string
	}{
		"no end of line":          {`{"version":1}`, nil, "no end of line"},
		"an unknown key":          {`{"version":1,"op":"list","root":true}` + "\n", nil, "unknown field"},
		"not JSON":                {"enrol\n", nil, "invalid character"},
		"unnamed descriptor":      {good, []int{fd}, "names 0 descriptors and brings 1"},
		"missing descriptor":      {`{"version":1,"op":"enrol","files":["netns"]}` + "\n", nil, "names 1 descriptors and brings 0"},
		"unknown descriptor":      {`{"version":1,"files":["disk"]}` + "\n", []int{fd}, `"disk" is unknown`},
		"a descriptor twice":      {`{"version":1,"files":["netns","netns"]}` + "\n", []int{fd, fd}, "named twice"},
		"three descriptors":       {good, []int{fd, fd, fd}, "too many descriptors"},
		"more than there is room": {good, []int{fd, fd, fd, fd, fd, fd, fd, fd}, "too many descriptors"},
		"too large":               {fmt.Sprintf(`{"version":1,"pod":%q}`, strings.Repeat("x", 2*MaxRequest)) + "\n", nil, "larger than"},
	} {
		t.Run(name, func(t *testing.T) {
			_, files, err := send(t, c.line, c.fds...)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, %v; want %q", files, err, c.want)
			}
		})
	}
	if after := openFiles(t); after > before {
		t.Errorf("%d descriptors are open, %d were before: refused ones were kept", after, before)
	}
}
