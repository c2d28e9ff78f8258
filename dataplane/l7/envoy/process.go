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
	"strings"
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
	spare    *standBy // set by the goroutine that keeps Envoy alone
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

// State is which processes there are.
type State struct {
	// PID is Envoy's, 0 where none runs now; Restarts is how often it was started again.
	PID, Restarts int
	// StandBy is that of the next one, which waits; 0 where there is none.
	StandBy int
}

// State returns which processes there are now.
func (p *Process) State() State {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := State{PID: p.pid, Restarts: p.restarts}
	if p.spare != nil {
		s.StandBy = p.spare.cmd.Process.Pid
	}
	return s
}

func (p *Process) keep(ctx context.Context) error {
	var wait pauses
	answered := false
	defer p.dismiss()
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

// child is an Envoy that was started.
type child struct {
	cmd   *exec.Cmd
	ended chan error // says how it has ended, once
}

// over reports whether it has ended, and how.
func (c *child) over() (bool, error) {
	select {
	case err := <-c.ended:
		c.ended <- err
		return true, err
	default:
		return false, nil
	}
}

// start starts an Envoy that reads its configuration at a path.
func (p *Process) start(config string) (*child, error) {
	cmd := exec.Command(p.config.Path, p.args(config)...)
	cmd.Stdout, cmd.Stderr = p.words, p.words
	// A group of its own: what a terminal sends to that of this process, which drains Envoy
	// first, is not for Envoy.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", p.config.Path, notStarted(p.config.Path, err))
	}
	c := &child{cmd, make(chan error, 1)}
	go func() { c.ended <- cmd.Wait() }()
	return c, nil
}

// once runs Envoy to its end, and reports whether it has answered meanwhile.
func (p *Process) once(ctx context.Context) (live bool, err error) {
	begun := time.Now()
	c, err := p.next(ctx)
	if err != nil {
		return false, err
	}
	p.running(c.cmd.Process.Pid)
	defer p.running(0)
	watched, stop := context.WithCancel(ctx)
	defer stop()
	answered, serves := p.watch(watched)
	var again <-chan time.Time
	for {
		select {
		case live = <-answered:
			answered = nil
			p.config.Log.Info("Envoy answers", "pid", c.cmd.Process.Pid, "after", time.Since(begun).Round(time.Millisecond))
			continue
		case <-serves:
			serves = nil
			p.prepareOrSay()
			continue
		case <-again:
			p.prepareOrSay()
			continue
		case err := <-p.spareEnded():
			p.config.Log.Warn("the Envoy that stood by has ended", "error", err, "another in", spareAgain)
			p.setSpare(nil)
			again = time.After(spareAgain)
			continue
		case err = <-c.ended:
		case <-ctx.Done():
			err = p.end(c)
		}
		break
	}
	stop()
	if err == nil {
		err = errors.New("exit code 0")
	}
	if answered != nil {
		live = <-answered
	}
	return live, err
}

// watch tells whether Envoy has answered before ctx ended, and when it has all that it
// needs.
func (p *Process) watch(ctx context.Context) (answered chan bool, serves chan struct{}) {
	answered, serves = make(chan bool, 1), make(chan struct{}, 1)
	go func() {
		err := p.Admin.Await(ctx)
		answered <- err == nil
		if err == nil && p.Admin.AwaitLive(ctx) == nil {
			serves <- struct{}{}
		}
	}()
	return answered, serves
}

func (p *Process) running(pid int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pid = pid
}

// end ends Envoy by SIGTERM, or by SIGKILL when it takes too long.
func (*Process) end(c *child) error {
	c.cmd.Process.Signal(unix.SIGTERM) // fails only when it has ended
	timer := time.NewTimer(endTime)
	defer timer.Stop()
	select {
	case err := <-c.ended:
		return err
	case <-timer.C:
		c.cmd.Process.Kill()
		return <-c.ended
	}
}

func (p *Process) args(config string) []string {
	args := []string{
		"-c", config, "--disable-hot-restart", "--concurrency", strconv.Itoa(p.config.Concurrency),
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
	said := strings.TrimSpace(string(w.kept))
	if said == "" {
		return ""
	}
	return ": " + said
}
