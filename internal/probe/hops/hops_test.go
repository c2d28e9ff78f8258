package hops

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/internal/kernel"
)

// childEnv names the address that the child asks.
const childEnv = "DUOMESH_HOPS_TEST_CHILD"

const rounds, question, answer = 200, 128, 1024

// TestMain is also the child: so many questions over one connection, each answered.
func TestMain(m *testing.M) {
	address := os.Getenv(childEnv)
	if address == "" {
		os.Exit(m.Run())
	}
	if err := ask(address); err != nil {
		panic(err)
	}
}

func ask(address string) error {
	c, err := net.Dial("tcp4", address)
	if err != nil {
		return err
	}
	defer c.Close()
	b := make([]byte, answer)
	for range rounds {
		if _, err := c.Write(b[:question]); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, b); err != nil {
			return err
		}
	}
	return nil
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func cgroup(t *testing.T, name string) *os.File {
	t.Helper()
	root, err := kernel.Cgroup2()
	must(t, err)
	path := filepath.Join(root, fmt.Sprintf("duomesh-hops-test-%d-%s", os.Getpid(), name))
	must(t, os.Mkdir(path, 0o755))
	t.Cleanup(func() { must(t, os.Remove(path)) })
	f, err := os.Open(path)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// serve answers questions on loopback, from a process that nobody watches.
func serve(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			go func() {
				defer c.Close()
				b := make([]byte, answer)
				for {
					if _, err := io.ReadFull(c, b[:question]); err != nil {
						return
					}
					if _, err := c.Write(b); err != nil {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

func run(t *testing.T, address string, in *os.File) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env, cmd.Stderr = append(os.Environ(), childEnv+"="+address), os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(in.Fd())}
	must(t, cmd.Run())
}

// TestRequestsAreFollowed: every byte that the child moves is seen under its role, each
// call ends after it began, and what another cgroup does is not seen.
func TestRequestsAreFollowed(t *testing.T) {
	kernel.Require(t, kernel.Root, kernel.Cgroup2Mount, kernel.BPF)
	address := serve(t)
	nobody, mine, other := cgroup(t, "nobody"), cgroup(t, "mine"), cgroup(t, "other")
	tracer, err := Open(nobody, mine)
	if kernel.Missing(err) {
		t.Skipf("NOT RUN: %v", err)
	}
	must(t, err)
	t.Cleanup(func() { must(t, tracer.Close()) })
	run(t, address, other)
	run(t, address, mine)
	events, lost, err := tracer.Stop()
	must(t, err)
	if lost > 0 {
		t.Fatalf("%d events were lost", lost)
	}
	var sent, read, connects, woken, ran int
	last := int64(0)
	for _, e := range events {
		if e.At < last {
			t.Fatalf("%+v stands after %d", e, last)
		}
		last = e.At
		if e.Role > 0 && e.Role != 1 || e.NextRole > 0 && e.NextRole != 1 || e.Role == 0 || e.NextRole == 0 {
			t.Fatalf("a role that is not there: %+v", e)
		}
		switch e.Kind {
		case Call:
			if e.Began > e.At || e.Began == 0 {
				t.Fatalf("a call that ends before it begins: %+v", e)
			}
			if e.Number == unix.SYS_CONNECT {
				connects++
			}
			if e.Sent {
				sent += e.Value
			}
			if e.Read {
				read += e.Value
			}
		case Waking:
			woken++
		case Switch:
			if e.Next != 0 {
				ran++
			}
		}
	}
	if sent != rounds*question || read != rounds*answer || connects != 1 {
		t.Errorf("%d bytes sent, %d read, %d connects; want %d, %d, 1", sent, read, connects, rounds*question, rounds*answer)
	}
	if woken == 0 || ran == 0 {
		t.Errorf("woken %d times, ran %d times", woken, ran)
	}
}
