package bench

import (
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/bench/load"
	"github.com/duomesh/duomesh/internal/ambient/standin"
)

// Names by which this program is something that a test needs in a pod.
const (
	busyName = "duomesh-bench-busy"
	spinName = "duomesh-bench-spin"
	hungName = "duomesh-bench-hung"
)

func TestMain(m *testing.M) {
	switch {
	case load.IsChild():
		os.Exit(load.Main())
	case standin.IsChild():
		os.Exit(standin.Main(os.Args, os.Environ()))
	case filepath.Base(os.Args[0]) == busyName:
		os.Exit(busy())
	case filepath.Base(os.Args[0]) == spinName:
		spin()
	case filepath.Base(os.Args[0]) == hungName:
		hang()
	}
	os.Exit(m.Run())
}

// busy runs spin in a session of its own: the kernel shares processors out among
// sessions first (sched_autogroup), and among the threads of each then.
func busy() int {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args, cmd.Stdin, cmd.SysProcAttr = []string{spinName}, os.Stdin, &syscall.SysProcAttr{Setsid: true}
	if cmd.Run() != nil {
		return 1
	}
	return 0
}

// spin keeps every processor at work until its input ends, before others as far as it
// may: a busy machine leaves it less.
func spin() {
	_ = os.WriteFile("/proc/self/autogroup", []byte("-15"), 0)
	var ended atomic.Bool
	for range runtime.NumCPU() {
		go func() {
			runtime.LockOSThread()
			_ = unix.Setpriority(unix.PRIO_PROCESS, 0, -15) // of this thread
			for !ended.Load() {
				continue
			}
		}()
	}
	_, _ = os.Stdin.Read(make([]byte, 1))
	ended.Store(true)
	os.Exit(0)
}

// hang answers nothing, neither its input nor who asks it to end.
func hang() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals)
	for range signals {
	}
}
