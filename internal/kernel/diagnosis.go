package kernel

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// The schema of a Diagnosis in JSON, and its version.
const (
	DiagnosisSchema  = "duomesh/doctor"
	DiagnosisVersion = 1
)

// Diagnosis is what duomesh can and cannot do on a kernel.
type Diagnosis struct {
	Schema  string `json:"schema"`
	Version int    `json:"version"`
	// Kernel is its release, Machine its architecture.
	Kernel  string `json:"kernel"`
	Machine string `json:"machine"`
	// Features, Engine and Judge are what was tried: what the kernel has, and
	// each program of the mesh and of the judge.
	Features []Trial `json:"features"`
	Engine   []Trial `json:"engine"`
	Judge    []Trial `json:"judge"`
	// Uses says what follows from that.
	Uses []Use `json:"uses"`
}

// Use is one thing that duomesh does, and the way in which it does it here.
type Use struct {
	// For is what it is for, for example "observe asked".
	For string `json:"for"`
	// By is the way that is taken here, empty where there is none.
	By string `json:"by,omitempty"`
	// Instead are the better ways that this kernel lacks, each with the reason.
	Instead []string `json:"instead,omitempty"`
	// Effect is what a user notices of it.
	Effect string `json:"effect,omitempty"`
	// Needed: without it a part of duomesh does not run at all.
	Needed bool `json:"needed,omitempty"`
}

// Blocked reports whether something that is needed has no way here.
func (d Diagnosis) Blocked() bool {
	for _, u := range d.Uses {
		if u.Needed && u.By == "" {
			return true
		}
	}
	return false
}

// NewDiagnosis begins one of this machine's kernel.
func NewDiagnosis() (Diagnosis, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return Diagnosis{}, fmt.Errorf("read kernel release: %w", err)
	}
	return Diagnosis{
		Schema: DiagnosisSchema, Version: DiagnosisVersion,
		Kernel: unix.ByteSliceToString(u.Release[:]), Machine: unix.ByteSliceToString(u.Machine[:]),
	}, nil
}

// Cgroup is the ground's cgroup, or why there is none. It stays the ground's.
func (g *Ground) Cgroup() (*os.File, error) { return g.cgroup, g.noCgroup }

// AttachKprobe runs prog at the entry of a kernel function, or at its return,
// until the closer is closed. The program reads cookie by bpf_get_attach_cookie;
// one other than 0 needs Linux 5.15. A kernel without kprobes is known by Missing.
func AttachKprobe(symbol string, prog *ebpf.Program, atReturn bool, cookie uint64) (io.Closer, error) {
	attach := link.Kprobe
	if atReturn {
		attach = link.Kretprobe
	}
	l, err := attach(symbol, prog, &link.KprobeOptions{Cookie: cookie})
	if err == nil {
		return l, nil
	}
	// The library then asks for tracefs, which tells nothing where it is not
	// mounted. The kernel itself announces kprobes here (Linux 4.17).
	if _, none := os.Stat("/sys/bus/event_source/devices/kprobe"); errors.Is(none, os.ErrNotExist) {
		err = fmt.Errorf("%w: this kernel has no kprobes", ebpf.ErrNotSupported)
	}
	return nil, fmt.Errorf("attach to function %s: %w", symbol, err)
}
