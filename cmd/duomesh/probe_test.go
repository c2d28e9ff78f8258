package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/duomesh/duomesh/internal/kernel"
	"github.com/duomesh/duomesh/internal/probe"
	"github.com/duomesh/duomesh/internal/trace"
)

// probed is `duomesh probe` at work on a namespace that has a loopback interface
// and a server.
type probed struct {
	tb       testing.TB
	ns       *os.File
	server   net.Listener
	cmd      *exec.Cmd
	out, err bytes.Buffer
}

func mustProbe(tb testing.TB, args ...string) *probed {
	tb.Helper()
	kernel.Require(tb, kernel.Root, kernel.Cgroup2Mount, kernel.BPF, kernel.BTF)
	p := &probed{tb: tb}
	p.serve()
	ready := filepath.Join(tb.TempDir(), "ready")
	path := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), p.ns.Fd())
	p.cmd = exec.Command("/proc/self/exe", append([]string{"probe", "--netns", path, "--ready-file", ready}, args...)...)
	p.cmd.Env = append(os.Environ(), asMainEnv+"=1")
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.err
	if err := p.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	const late = 2 * time.Minute // for an emulated machine that lists its functions
	deadline := time.After(late)
	for {
		if _, err := os.Stat(ready); err == nil {
			return p
		}
		select {
		case <-deadline:
			_ = p.cmd.Process.Kill()
			_ = p.cmd.Wait()
			tb.Fatalf("not ready within %s: %s", late, p.err.String())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (p *probed) serve() {
	p.tb.Helper()
	var err error
	if p.ns, err = kernel.NewNetns(); err != nil {
		p.tb.Fatal(err)
	}
	p.tb.Cleanup(func() { p.ns.Close() })
	h, err := netlink.NewHandleAt(netns.NsHandle(p.ns.Fd()))
	if err != nil {
		p.tb.Fatal(err)
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err == nil {
		err = h.LinkSetUp(lo)
	}
	if err != nil {
		p.tb.Fatal(err)
	}
	err = kernel.InNetns(p.ns, func() (err error) {
		var c net.ListenConfig
		c.SetMultipathTCP(false)
		p.server, err = c.Listen(context.Background(), "tcp4", "127.0.0.1:0")
		return err
	})
	if err != nil {
		p.tb.Fatal(err)
	}
	p.tb.Cleanup(func() { p.server.Close() })
	go func() {
		for {
			c, err := p.server.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, c)
			c.Close()
		}
	}()
}

func (p *probed) visit() {
	p.tb.Helper()
	err := kernel.InNetns(p.ns, func() error {
		c, err := net.Dial("tcp4", p.server.Addr().String())
		if err != nil {
			return err
		}
		return c.Close()
	})
	if err != nil {
		p.tb.Fatal(err)
	}
}

// end waits for the command and returns its exit code.
func (p *probed) end() int {
	_ = p.cmd.Wait() // the code says it
	return p.cmd.ProcessState.ExitCode()
}

func TestProbeJSON(t *testing.T) {
	p := mustProbe(t, "-o", "json", "--limit", "2", "--timeout", "20s")
	p.visit()
	if code := p.end(); code != 0 {
		t.Fatalf("exit code %d:\n%s", code, p.err.String())
	}
	roles := map[probe.Role]connectionJSON{}
	for dec := json.NewDecoder(&p.out); dec.More(); {
		var c connectionJSON
		if err := dec.Decode(&c); err != nil {
			t.Fatal(err)
		}
		roles[c.Role] = c
	}
	to := netip.MustParseAddrPort(p.server.Addr().String())
	active, passive := roles[probe.RoleActive], roles[probe.RolePassive]
	if active.Schema != probeSchema || active.Version != probeVersion || active.Asked != to || active.Peer != to ||
		len(active.Wire) == 0 || passive.Local != to || passive.Peer != active.Local {
		t.Errorf("active %+v\npassive %+v", active, passive)
	}
	for _, want := range []string{"asked seen by ", "wire-syn seen by ", "2 connections printed", "lost nothing"} {
		if !strings.Contains(p.err.String(), want) {
			t.Errorf("no %q in:\n%s", want, p.err.String())
		}
	}
}

// A signal ends the watch; what was filtered out is not printed.
func TestProbeFilterAndSignal(t *testing.T) {
	p := mustProbe(t, "--dst", "192.0.2.1:80")
	p.visit()
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code := p.end(); code != 0 || p.out.Len() != 0 {
		t.Errorf("exit code %d, printed %q:\n%s", code, p.out.String(), p.err.String())
	}
}

// A ring that is too small loses events: exit code 3.
func TestProbeLost(t *testing.T) {
	p := mustProbe(t, "--ring", fmt.Sprint(os.Getpagesize()))
	for range 300 {
		p.visit()
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := p.end(); code != 3 || !strings.Contains(p.err.String(), "ring full") {
		t.Errorf("exit code %d, want 3:\n%s", code, p.err.String())
	}
}

func TestProbeBadInput(t *testing.T) {
	kernel.Require(t, kernel.Root)
	for want, args := range map[string][]string{
		"--dst nonsense":       {"--dst", "nonsense"},
		"--netns /nowhere":     {"--netns", "/nowhere"},
		"--cgroup":             {"--cgroup", "/nowhere"},
		"no pod \"x\"":         {"--pod", "x", "--run-dir", t.TempDir()},
		"--output yaml":        {"-o", "yaml"},
		"--ring 5":             {"--ring", "5"},
		"--by: provider eyes":  {"--by", "eyes"},
		"--limit -1":           {"--limit", "-1"},
		"--timeout -1s":        {"--timeout", "-1s"},
		"argument \"surplus\"": {"surplus"},
		"unknown flag":         {"--nothing"},
	} {
		cmd := exec.Command("/proc/self/exe", append([]string{"probe"}, args...)...)
		cmd.Env = append(os.Environ(), asMainEnv+"=1")
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != 2 || !strings.Contains(string(out), want) || strings.Count(string(out), "\n") != 1 {
			t.Errorf("probe %s: %v, exit code %d, want 2 with %q in one line:\n%s",
				strings.Join(args, " "), err, cmd.ProcessState.ExitCode(), want, out)
		}
	}
}

// A glob that is none is wrong usage on every kernel, and is not taken for a lack of it.
func TestProbeBadGlob(t *testing.T) {
	f := probeFlags{functions: []string{"tcp_[a"}}
	_, err := trace.Choose(f.functions)
	var usage usageError
	if got := f.refuse(err); !errors.As(got, &usage) || !strings.Contains(got.Error(), `--functions: function glob "tcp_[a"`) {
		t.Errorf("got %v, want wrong usage that names the flag and the glob", got)
	}
}

func TestParseDst(t *testing.T) {
	line := probe.Line{
		Asked: netip.MustParseAddrPort("[::ffff:192.0.2.1]:80"), Peer: netip.MustParseAddrPort("192.0.2.2:8080"),
	}
	for s, want := range map[string]bool{
		"": true, "192.0.2.1": true, "192.0.2.1:80": true, "192.0.2.1:81": false, "192.0.2.2": true,
		"192.0.2.3": false, "[::ffff:192.0.2.2]:8080": true, "2001:db8::1": false,
	} {
		d, err := parseDst(s)
		if err != nil || d.takes(line) != want {
			t.Errorf("%q: %v, %v; want %v", s, d.takes(line), err, want)
		}
	}
}

func TestTextLine(t *testing.T) {
	l := probe.Line{
		Pod: "client", Protocol: 6, Role: probe.RoleActive, State: probe.StateFailed, Errno: syscall.ECONNREFUSED,
		Asked: netip.MustParseAddrPort("192.0.2.1:80"), Peer: netip.MustParseAddrPort("192.0.2.2:8080"),
		Wire:    []probe.SYN{{Side: probe.SidePod, Dst: netip.MustParseAddrPort("192.0.2.2:8080")}},
		AskedAt: 12e9 + 5e3, ClosedAt: 12e9 + 105e3,
	}
	want := "12.000005 client tcp active asked 192.0.2.1:80 local unknown peer 192.0.2.2:8080" +
		" wire(pod) 192.0.2.2:8080 failed (ECONNREFUSED) after 100µs"
	if got := textLine(l); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// What the kernel throws away is told with its pod and connection.
func TestProbeDrops(t *testing.T) {
	p := mustProbe(t, "--drops", "-o", "json", "--dst", "127.0.0.1:9")
	err := kernel.InNetns(p.ns, func() error {
		c, err := net.Dial("tcp4", "127.0.0.1:9")
		if err == nil {
			c.Close()
		}
		return err
	})
	if err == nil {
		t.Fatal("somebody listens")
	}
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code := p.end(); code != 0 {
		t.Fatalf("exit code %d:\n%s", code, p.err.String())
	}
	var drops []dropJSON
	var local netip.AddrPort
	for dec := json.NewDecoder(&p.out); dec.More(); {
		var line json.RawMessage
		if err := dec.Decode(&line); err != nil {
			t.Fatal(err)
		}
		var d dropJSON
		var c connectionJSON
		if json.Unmarshal(line, &d) == nil && d.Schema == dropSchema {
			drops = append(drops, d)
		} else if json.Unmarshal(line, &c) == nil && c.Role == probe.RoleActive {
			local = c.Local
		}
	}
	if len(drops) != 1 || drops[0].Reason != "NO_SOCKET" || drops[0].Src != local || drops[0].Pod == "" {
		t.Errorf("%+v, want one of the connection from %s\n%s", drops, local, p.err.String())
	}
}

// Functions of the kernel are named, or refused in one sentence that names what the
// kernel lacks.
func TestProbeStack(t *testing.T) {
	if kernel.Kprobe.Probe() != nil && kernel.Fentry.Probe() != nil {
		kernel.Require(t, kernel.Root)
		for _, flag := range []string{"--stack", "--functions=tcp_*"} {
			cmd := exec.Command("/proc/self/exe", "probe", flag, "--timeout", "1s")
			cmd.Env = append(os.Environ(), asMainEnv+"=1")
			out, _ := cmd.CombinedOutput()
			if cmd.ProcessState.ExitCode() != 2 || !strings.Contains(string(out), "no kprobes") || strings.Count(string(out), "\n") != 1 {
				t.Errorf("%s: exit code %d, want 2 with a reason in one line:\n%s", flag, cmd.ProcessState.ExitCode(), out)
			}
		}
		return
	}
	p := mustProbe(t, "--stack", "--functions", "tcp_v4_connec?", "--limit", "2", "--timeout", "20s")
	p.visit()
	if code := p.end(); code != 0 {
		t.Fatalf("exit code %d:\n%s", code, p.err.String())
	}
	for _, want := range []string{"__inet_stream_connect\n", " inet_csk_accept\n", "tcp_v4_connect called 1 times, 1 of them"} {
		if !strings.Contains(p.out.String(), want) {
			t.Errorf("no %q in:\n%s", want, p.out.String())
		}
	}
	t.Logf("duomesh probe printed:\n%s%s", p.out.String(), p.err.String())
}
