package trace

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/duomesh/duomesh/internal/kernel"
)

// place is a function to stand at.
type place struct {
	name     string
	atReturn bool
	cookie   uint64
}

// way is one way to stand at functions.
type way struct {
	name string
	// entry and exit name programs, by what they are for.
	programs func(job string) (entry, exit string)
	attach   func(o *objects, program string, places []place) (*attached, error)
	// registers: the program reads arguments from the processor's registers.
	registers bool
}

// attached is programs at functions. Left has the functions at which it could not.
type attached struct {
	closers []io.Closer
	at      []string
	left    []string
}

// Close detaches and unloads, the newest first. It may be called again.
func (a *attached) Close() error {
	var errs []error
	for _, c := range slices.Backward(a.closers) {
		errs = append(errs, c.Close())
	}
	a.closers = nil
	return errors.Join(errs...)
}

// ways are all, the best first: one link for all functions, one each, and one
// program each.
var ways = []way{
	{"kprobe.multi", programs("multi", "multi"), attachMulti, true},
	{"kprobe", programs("kprobe", "kprobe"), attachEach, true},
	{"fentry", programs("fentry", "fexit"), attachTyped, false},
}

func programs(entry, exit string) func(string) (string, string) {
	return func(job string) (string, string) {
		if job == jobCount {
			return "count_" + entry, ""
		}
		return "call_" + entry, "return_" + exit
	}
}

// What programs at functions do.
const (
	jobCall  = "call"
	jobCount = "count"
)

// stand attaches programs for a job to functions, by the first of some ways that
// this kernel has; nil are all.
func stand(o *objects, from []way, job string, places []place) (a *attached, by string, err error) {
	var not []string
	if from == nil {
		from = ways
	}
	for _, w := range from {
		a, err := w.stand(o, job, places)
		if err == nil {
			return a, w.name, nil
		}
		if !kernel.Missing(err) {
			return nil, "", fmt.Errorf("name functions of the kernel by %s: %w", w.name, err)
		}
		not = append(not, w.name+": "+kernel.Innermost(err))
	}
	return nil, "", &NoFunctionsError{not}
}

// NoFunctionsError says that no program can stand at a function of this kernel.
type NoFunctionsError struct{ not []string }

// Reasons are the ways, each with why it is none here.
func (e *NoFunctionsError) Reasons() []string { return e.not }

// Error implements error.
func (e *NoFunctionsError) Error() string {
	s := "this kernel lets no program stand at its functions (no kprobes)"
	for _, n := range e.not {
		s += "; " + n
	}
	return s
}

func (w way) stand(o *objects, job string, places []place) (*attached, error) {
	if _, known := registers[runtime.GOARCH]; w.registers && !known {
		return nil, fmt.Errorf("where %s passes arguments is not known: %w", runtime.GOARCH, ebpf.ErrNotSupported)
	}
	entry, exit := w.programs(job)
	all := &attached{}
	for program, places := range map[string][]place{entry: atEntry(places), exit: atReturn(places)} {
		if len(places) == 0 {
			continue
		}
		a, err := w.attach(o, program, places)
		if err != nil {
			return nil, undo(err, all)
		}
		all.closers = append(all.closers, a)
		all.at, all.left = append(all.at, a.at...), append(all.left, a.left...)
	}
	return all, nil
}

func atEntry(places []place) []place {
	return slices.DeleteFunc(slices.Clone(places), func(p place) bool { return p.atReturn })
}

func atReturn(places []place) []place {
	return slices.DeleteFunc(slices.Clone(places), func(p place) bool { return !p.atReturn })
}

func attachMulti(o *objects, program string, places []place) (*attached, error) {
	prog, err := o.program(program, "")
	if err != nil {
		return nil, err
	}
	a := &attached{closers: []io.Closer{prog}}
	var options link.KprobeMultiOptions
	for _, p := range places {
		options.Symbols = append(options.Symbols, p.name)
		options.Cookies = append(options.Cookies, p.cookie)
	}
	attach := link.KprobeMulti
	if places[0].atReturn {
		attach = link.KretprobeMulti
	}
	l, err := attach(prog, options)
	if err != nil {
		return nil, undo(fmt.Errorf("attach %s: %w", program, err), a)
	}
	a.closers, a.at = append(a.closers, l), options.Symbols
	return a, nil
}

func attachEach(o *objects, program string, places []place) (*attached, error) {
	prog, err := o.program(program, "")
	if err != nil {
		return nil, err
	}
	return each([]io.Closer{prog}, places, func(p place) (io.Closer, error) {
		return kernel.AttachKprobe(p.name, prog, p.atReturn, p.cookie)
	})
}

func attachTyped(o *objects, program string, places []place) (*attached, error) {
	return each(nil, places, func(p place) (io.Closer, error) {
		prog, err := o.program(program, p.name)
		if err != nil {
			return nil, err
		}
		at := ebpf.AttachTraceFEntry
		if p.atReturn {
			at = ebpf.AttachTraceFExit
		}
		l, err := link.AttachTracing(link.TracingOptions{Program: prog, AttachType: at, Cookie: p.cookie})
		if err != nil {
			return nil, undo(fmt.Errorf("attach %s: %w", program, err), prog)
		}
		return &attached{closers: []io.Closer{prog, l}}, nil
	})
}

// each attaches to one function after the other. One that the kernel protects, or
// cannot tell from another of its name, is left out; where all are, that is the
// way's error.
func each(first []io.Closer, places []place, attach func(place) (io.Closer, error)) (*attached, error) {
	a := &attached{closers: first}
	var why error
	for _, p := range places {
		c, err := attach(p)
		if err != nil {
			a.left, why = append(a.left, p.name), err
			continue
		}
		a.closers, a.at = append(a.closers, c), append(a.at, p.name)
	}
	if len(a.at) == 0 {
		if errors.Is(why, os.ErrNotExist) {
			why = fmt.Errorf("%w: %w", ebpf.ErrNotSupported, why)
		}
		return nil, undo(why, a)
	}
	return a, nil
}

// undo closes what was opened before err, which stays as it is where that goes well:
// its last cause is what a user is told.
func undo(err error, c io.Closer) error {
	if closing := c.Close(); closing != nil {
		return errors.Join(err, closing)
	}
	return err
}

// Check says whether programs can stand at functions of this kernel, by standing
// at one for a moment: a NoFunctionsError where not.
func Check() error {
	o, err := newObjects(1)
	if err != nil {
		return err
	}
	a, _, err := stand(o, nil, jobCount, []place{{name: "tcp_v4_connect"}})
	if err == nil {
		err = a.Close()
	}
	return errors.Join(err, o.Close())
}
