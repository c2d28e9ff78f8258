package envoy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	connectTime = time.Second
	// drainTime is how long connections on a filter chain that was replaced may go on,
	// as Istio's agent has it.
	drainTime = 45 * time.Second
	// endTime is how long Envoy has after SIGTERM.
	endTime = 5 * time.Second
)

// Config is how an Envoy is run.
type Config struct {
	// Path is the program.
	Path string
	// Bootstrap is the path of its configuration.
	Bootstrap string
	// Admin is the unix socket of its admin API, as in the bootstrap.
	Admin string
	// Concurrency is the number of its workers.
	Concurrency int
	// LogLevel is Envoy's, for example "warning"; ComponentLogLevel is a list of
	// component:level, or "".
	LogLevel, ComponentLogLevel string
	// Output takes what Envoy says; it is kept open.
	Output io.Writer
	Log    *slog.Logger
}

// Process is an Envoy that is kept running.
type Process struct {
	config Config
	Admin  *Admin
	words  *lastWords
	done   chan struct{}
	err    error // set before done is closed

	mu       sync.Mutex
	pid      int // 0 between two
	restarts int
}

// Start runs Envoy until ctx ends, and again whenever it ends before that. The caller
// waits for Done. An Envoy that ends before it has once answered on its admin socket
// is not started again: its configuration, or this machine, is wrong.
func Start(ctx context.Context, c Config) *Process {
	p := &Process{config: c, Admin: NewAdmin(c.Admin), words: &lastWords{to: c.Output}, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		// The kernel ends a child with the thread that started it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		p.err = p.keep(ctx)
	}()
	return p
}

// Done is closed when Envoy has ended for good.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err says, after Done, why Envoy has ended; nil when it was to.
func (p *Process) Err() error {
	<-p.done
	return p.err
}

// State returns Envoy's process ID, 0 where none runs now, and how often it was
// started again.
func (p *Process) State() (pid, restarts int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pid, p.restarts
}

func (p *Process) keep(ctx context.Context) error {
	var wait pauses
	answered := false
	for ctx.Err() == nil {
		start := time.Now()
		live, err := p.once(ctx)
		answered = answered || live
		if ctx.Err() != nil {
			return nil
		}
		if !answered {
			return fmt.Errorf("Envoy does not start: %w%s", err, p.words.text()) //nolint:staticcheck // a name
		}
		pause := wait.next(time.Now(), live)
		p.config.Log.Error("Envoy has ended, and is started again", "after", time.Since(start).Round(time.Millisecond),
			"error", err, "pause", pause)
		if !sleep(ctx, pause) {
			return nil
		}
		p.mu.Lock()
		p.restarts++
		p.mu.Unlock()
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// once runs Envoy to its end, and reports whether it has answered meanwhile.
func (p *Process) once(ctx context.Context) (live bool, err error) {
	cmd := exec.Command(p.config.Path, p.args()...)
	cmd.Stdout, cmd.Stderr = p.words, p.words
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		return false, fmt.Errorf("start %s: %w", p.config.Path, err)
	}
	p.running(cmd.Process.Pid)
	defer p.running(0)
	watched, stop := context.WithCancel(ctx)
	answered := make(chan bool, 1)
	go func() { answered <- p.Admin.Await(watched) == nil }()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err = <-ended:
	case <-ctx.Done():
		err = p.end(cmd, ended)
	}
	stop()
	if err == nil {
		err = errors.New("exit code 0")
	}
	return <-answered, err
}

func (p *Process) running(pid int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pid = pid
}

// end ends Envoy by SIGTERM, or by SIGKILL when it takes too long.
func (p *Process) end(cmd *exec.Cmd, ended <-chan error) error {
	cmd.Process.Signal(unix.SIGTERM) // fails only when it has ended
	timer := time.NewTimer(endTime)
	defer timer.Stop()
	select {
	case err := <-ended:
		return err
	case <-timer.C:
		cmd.Process.Kill()
		return <-ended
	}
}

func (p *Process) args() []string {
	args := []string{
		"-c", p.config.Bootstrap, "--disable-hot-restart", "--concurrency", strconv.Itoa(p.config.Concurrency),
		"--drain-time-s", strconv.Itoa(int(drainTime.Seconds())), "--drain-strategy", "immediate",
		"--log-level", p.config.LogLevel,
	}
	if p.config.ComponentLogLevel != "" {
		args = append(args, "--component-log-level", p.config.ComponentLogLevel)
	}
	return args
}

// lastWords passes on what Envoy says and keeps the end of it.
type lastWords struct {
	to   io.Writer
	mu   sync.Mutex
	kept []byte
}

const lastWordsBytes = 2048

// Write implements io.Writer.
func (w *lastWords) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.kept = append(w.kept, b...)
	if extra := len(w.kept) - lastWordsBytes; extra > 0 {
		w.kept = w.kept[extra:]
	}
	if w.to == nil {
		return len(b), nil
	}
	return w.to.Write(b)
}

func (w *lastWords) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.kept) == 0 {
		return ""
	}
	return ": " + string(w.kept)
}
