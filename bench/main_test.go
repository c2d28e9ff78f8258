package bench

import (
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/bench/load"
	"github.com/duomesh/duomesh/internal/ambient/standin"
)

// Names by which this program is something that a test needs in a pod.
const (
	busyName = "duomesh-bench-busy"
	hungName = "duomesh-bench-hung"
)

func TestMain(m *testing.M) {
	switch {
	case load.IsChild():
		os.Exit(load.Main())
	case standin.IsChild():
		os.Exit(standin.Main(os.Args, os.Environ()))
	case filepath.Base(os.Args[0]) == busyName:
		busy()
	case filepath.Base(os.Args[0]) == hungName:
		hang()
	}
	os.Exit(m.Run())
}

// busy keeps every processor at work, before others, until its input ends.
func busy() {
	const before = -15
	for range runtime.NumCPU() {
		go func() {
			runtime.LockOSThread()
			_ = unix.Setpriority(unix.PRIO_PROCESS, 0, before) // of this thread; without it a busy machine takes more
			for {
			}
		}()
	}
	_, _ = os.Stdin.Read(make([]byte, 1))
	os.Exit(0)
}

// hang answers nothing, neither its input nor who asks it to end.
func hang() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals)
	for range signals {
	}
}
