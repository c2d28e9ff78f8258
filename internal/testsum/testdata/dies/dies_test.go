package dies

import (
	"syscall"
	"testing"
)

func TestBefore(t *testing.T) {}

func TestDies(t *testing.T) {
	_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
	select {}
}

func TestNeverStarted(t *testing.T) {}
