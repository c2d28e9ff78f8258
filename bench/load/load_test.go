package load

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if IsChild() {
		os.Exit(Main())
	}
	os.Exit(m.Run())
}

// child starts this test binary again as a client or server on loopback.
func child(t *testing.T, name string) (io.WriteCloser, io.Reader) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{name}
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		if err := cmd.Wait(); err != nil && !t.Failed() {
			t.Logf("%s ended: %v", name, err)
		}
	})
	return stdin, stdout
}

func startServer(t *testing.T) (*Server, uint16) {
	t.Helper()
	in, out := child(t, ServerName)
	s := NewServer(in, out)
	port, err := s.Listen(ServerSpec{MaxProcs: 2})
	if err != nil {
		t.Fatal(err)
	}
	return s, port
}

func run(t *testing.T, server *Server, s Spec) (Result, Counts) {
	t.Helper()
	in, out := child(t, ClientName)
	c := NewClient(in, out)
	if err := c.Warm(s); err != nil {
		t.Fatal(err)
	}
	before, err := server.Counts()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Run(); err != nil {
		t.Fatal(err)
	}
	after, err := server.Counts()
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.Collect()
	if err != nil {
		t.Fatal(err)
	}
	return r, Counts{Connections: after.Connections - before.Connections, Requests: after.Requests - before.Requests}
}

func url(port uint16) string { return fmt.Sprintf("http://127.0.0.1:%d/?size=1024", port) }

func TestBothEndsAgree(t *testing.T) {
	server, port := startServer(t)
	base := Spec{URL: url(port), PayloadBytes: 128, Threads: 1, KeepAlive: true, Warmup: 50 * time.Millisecond, Duration: 300 * time.Millisecond, MaxProcs: 2}
	fixed, closed, many, fresh := base, base, base, base
	fixed.PerSecond = 200
	many.Threads = 4
	fresh.KeepAlive = false
	for name, s := range map[string]Spec{"fixed": fixed, "closed": closed, "saturation": many, "newconn": fresh} {
		t.Run(name, func(t *testing.T) {
			r, seen := run(t, server, s)
			samples, err := ReadSamples(bytes.NewReader(r.Samples))
			if err != nil {
				t.Fatal(err)
			}
			if len(samples) != r.Report.Requests || len(samples) < 10 || r.Report.Errors != 0 {
				t.Errorf("%d samples, %d requests, %d errors", len(samples), r.Report.Requests, r.Report.Errors)
			}
			// Fortio greets once per thread outside the samples.
			if want := int64(len(samples) + s.Threads); seen.Requests != want {
				t.Errorf("server answered %d requests, client made %d", seen.Requests, want)
			}
			if seen.Connections != r.Report.Connections {
				t.Errorf("server took %d connections, client opened %d", seen.Connections, r.Report.Connections)
			}
			if s.KeepAlive && seen.Connections != int64(s.Threads) {
				t.Errorf("keep-alive used %d connections", seen.Connections)
			}
			if !s.KeepAlive && seen.Connections < int64(len(samples)) {
				t.Errorf("%d connections for %d requests", seen.Connections, len(samples))
			}
			if !bytes.Contains(r.Fortio, []byte("DurationHistogram")) {
				t.Error("fortio's own result is missing")
			}
			if s.PerSecond > 0 && (r.Report.Slots != 60 || r.Report.Missed+len(samples) != 60) {
				t.Errorf("%d slots, %d missed, %d sent", r.Report.Slots, r.Report.Missed, len(samples))
			}
		})
	}
}

func TestNobodyListens(t *testing.T) {
	in, out := child(t, ClientName)
	err := NewClient(in, out).Warm(Spec{URL: "http://127.0.0.1:1/", PayloadBytes: 1, Threads: 1, Warmup: 10 * time.Millisecond, Duration: time.Second})
	if err == nil || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Errorf("a load on a closed port: %v", err)
	}
}

func TestWrongOrderIsAnError(t *testing.T) {
	_, port := startServer(t)
	in, out := child(t, ClientName)
	c := NewClient(in, out)
	if err := c.Warm(Spec{URL: url(port), Threads: 1, Duration: 50 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Collect(); err == nil || !strings.Contains(err.Error(), `wait for "go"`) {
		t.Errorf("collect before go: %v", err)
	}
}

// TestTooManyCallsAreRefused: a closed loop without an end in sight ends at the bound,
// and is no result.
func TestTooManyCallsAreRefused(t *testing.T) {
	_, port := startServer(t)
	in, out := child(t, ClientName)
	c := NewClient(in, out)
	if err := c.Warm(Spec{URL: url(port), Threads: 2, KeepAlive: true, Duration: time.Hour, MaxProcs: 2, MaxCalls: 60}); err != nil {
		t.Fatal(err)
	}
	if err := c.Run(); err == nil || !strings.Contains(err.Error(), "more than 60 in one trial") {
		t.Errorf("an hour of requests, 60 allowed: %v", err)
	}
	r := newRecorder(Spec{Threads: 4, Duration: time.Hour, MaxCalls: 100})
	if got := cap(r.threads[0]); got > 25 {
		t.Errorf("room for %d requests in a thread that may make 25", got)
	}
}

// TestStallIsCharged is the point of the open loop: one answer that takes 50 ms
// delays the requests behind it, and their response time says so while their
// service time does not.
func TestStallIsCharged(t *testing.T) {
	s := Spec{Threads: 1, PerSecond: 100, Duration: time.Second}
	r := newRecorder(s)
	at := s.intended(0, 5)
	r.threads[0] = []Sample{
		{Iteration: 5, Start: at, Latency: 50 * time.Millisecond, Code: 200},
		{Iteration: 6, Start: at + 50*time.Millisecond, Latency: time.Millisecond, Code: 200},
	}
	all := r.finish(r.base)
	if got := all[0].Response(); got != 50*time.Millisecond {
		t.Errorf("response time of the slow request: %v", got)
	}
	if got := all[1].Response(); got < 40*time.Millisecond || got > 42*time.Millisecond {
		t.Errorf("response time of the request behind it: %v", got)
	}
	sum := summarise(s, all)
	if sum.Slots != 100 || sum.Missed != 98 || sum.Late != 1 {
		t.Errorf("slots %d, missed %d, late %d", sum.Slots, sum.Missed, sum.Late)
	}
}

// TestScheduleIsFortios compares the plan with what fortio does: no request
// leaves before its time, and the typical one leaves soon after it.
func TestScheduleIsFortios(t *testing.T) {
	server, port := startServer(t)
	r, _ := run(t, server, Spec{URL: url(port), Threads: 2, PerSecond: 100, KeepAlive: true, Duration: 600 * time.Millisecond, MaxProcs: 2})
	samples, err := ReadSamples(bytes.NewReader(r.Samples))
	if err != nil {
		t.Fatal(err)
	}
	soon := 0
	for _, x := range samples {
		wait := x.Start - x.Intended
		if wait < -time.Microsecond {
			t.Errorf("thread %d request %d left %v before its time", x.Thread, x.Iteration, -wait)
		}
		if wait < 5*time.Millisecond {
			soon++
		}
	}
	if soon < len(samples)/2 || len(samples) == 0 {
		t.Errorf("only %d of %d requests left within 5 ms of their time: the plan is not fortio's", soon, len(samples))
	}
}

func TestSamplesRoundTrip(t *testing.T) {
	want := []Sample{{0, 0, 5, 7, 100, 200}, {3, 9, -1, 2, 1 << 40, -1}}
	var b bytes.Buffer
	if err := WriteSamples(&b, want); err != nil {
		t.Fatal(err)
	}
	whole := b.Bytes()
	got, err := ReadSamples(bytes.NewReader(whole))
	if err != nil || len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := ReadSamples(bytes.NewReader(whole[:len(whole)-6])); err == nil {
		t.Error("a cut file was read as whole")
	}
	for _, line := range []string{"1,2,3", "1,2,3,4,5,6,7", "1,2,3,4,x,6"} {
		if _, err := parseSample(line); err == nil {
			t.Errorf("%q was read as a sample", line)
		}
	}
}

func TestCountersOfTheNamespace(t *testing.T) {
	c, err := parseDev("Inter-|   Receive | Transmit\n face |bytes packets errs\n" +
		"    lo: 1 99 0 0 0 0 0 0 1 99 0 0 0 0 0 0\n  eth0: 10 4 0 0 0 0 0 0 20 5 0 0 0 0 0 0\n")
	if err != nil || c.in != 4 || c.out != 5 {
		t.Errorf("packets %+v, %v", c, err)
	}
	n, err := parseCounter("Ip: a\nIp: 1\nTcp: InSegs RetransSegs\nTcp: 7 3\n", "Tcp:", "RetransSegs")
	if err != nil || n != 3 {
		t.Errorf("retransmits %d, %v", n, err)
	}
	if _, err := parseCounter("Ip: a\n", "Tcp:", "RetransSegs"); err == nil {
		t.Error("counters without RetransSegs were accepted")
	}
}
