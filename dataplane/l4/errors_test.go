package l4

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/duomesh/duomesh/internal/kernel"
)

func TestExplain(t *testing.T) {
	misleading := fmt.Errorf("map create: %w (MEMLOCK may be too low, consider rlimit.RemoveMemlock)", unix.EPERM)
	got := explain(misleading)
	if strings.Contains(got.Error(), "MEMLOCK") || !strings.Contains(got.Error(), "CAP_BPF") {
		t.Errorf("got %q", got)
	}
	if !kernel.Missing(got) || !errors.Is(got, unix.EPERM) {
		t.Errorf("%v is not known as EPERM any more", got)
	}
	if got := explain(fmt.Errorf("x: %w", ebpf.ErrNotSupported)); !errors.Is(got, ebpf.ErrNotSupported) {
		t.Errorf("the chain is broken: %v", got)
	}
	other := errors.New("other")
	if !errors.Is(explain(other), other) || explain(nil) != nil {
		t.Error("an error without an explanation was changed")
	}
}
