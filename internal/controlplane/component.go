package controlplane

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// component is one program of the control plane.
type component struct {
	name  string
	start func(Command) (Process, error)
	logs  string
	// ready returns nil when the program serves.
	ready func(ctx context.Context) error

	said *slog.Logger

	mu     sync.Mutex
	proc   Process // nil: none was started
	wanted bool    // it is to run
}

// readyPoll is how often a program that is starting is asked.
const readyPoll = 20 * time.Millisecond

// run starts the program and returns when it serves.
func (c *component) run(ctx context.Context, command Command) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.alive() {
		return fmt.Errorf("%s runs already", c.name)
	}
	log, err := os.OpenFile(c.log(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open log of %s: %w", c.name, err)
	}
	defer log.Close()
	command.Output = log
	proc, err := c.start(command)
	if err != nil {
		return err
	}
	c.proc, c.wanted = proc, true
	go c.watch(proc)
	return c.await(ctx, proc)
}

// watch says so when a program ends that nobody has ended.
func (c *component) watch(proc Process) {
	<-proc.Done()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.wanted && c.proc == proc {
		c.said.Error("a program of the control plane ended", "program", c.name, "error", proc.Wait(), "log", c.log())
	}
}

func (c *component) await(ctx context.Context, proc Process) error {
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for {
		err := c.ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-proc.Done():
			return fmt.Errorf("%s ended before it was ready: %w%s", c.name, proc.Wait(), c.lastWords())
		case <-ctx.Done():
			return fmt.Errorf("%s does not get ready: %w: %w%s", c.name, context.Cause(ctx), err, c.lastWords())
		}
	}
}

func (c *component) alive() bool {
	if c.proc == nil {
		return false
	}
	select {
	case <-c.proc.Done():
		return false
	default:
		return true
	}
}

// running reports whether the program runs.
func (c *component) running() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.alive()
}

// kill ends the program by SIGKILL and returns when it is dead.
func (c *component) kill() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.alive() {
		return fmt.Errorf("%s does not run", c.name)
	}
	c.wanted = false
	if err := c.proc.Signal(syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill %s: %w", c.name, err)
	}
	<-c.proc.Done()
	return nil
}

// stop ends the program, if it runs.
func (c *component) stop(ctx context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wanted = false
	if c.alive() {
		c.proc.Stop(ctx)
	}
}

func (c *component) log() string { return filepath.Join(c.logs, c.name+".log") }

// lastLines is how many lines of a log an error holds.
const lastLines = 5

// lastWords is the end of the program's log.
func (c *component) lastWords() string {
	data, err := os.ReadFile(c.log())
	if err != nil || len(data) == 0 {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return "; the end of " + c.log() + ":\n" + strings.Join(lines[max(0, len(lines)-lastLines):], "\n")
}
