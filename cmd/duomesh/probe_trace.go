package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"path"
	"strings"
	"time"

	"github.com/duomesh/duomesh/internal/kernel"
	"github.com/duomesh/duomesh/internal/probe"
	"github.com/duomesh/duomesh/internal/trace"
)

// The schemas of the JSON lines beside connections.
const (
	dropSchema     = "duomesh.probe.drop"
	functionSchema = "duomesh.probe.function"
)

// tracing is what --stack, --drops and --functions ask for; nil: nothing.
type tracing struct {
	*trace.Trace
	chosen trace.Chosen
	stack  bool
}

// trace opens what the flags ask for. A kernel that has no such thing is refused.
func (f probeFlags) trace(targets []probe.Target) (*tracing, error) {
	if !f.stack && !f.drops && len(f.functions) == 0 {
		return nil, nil
	}
	t := &tracing{stack: f.stack}
	var err error
	if f.stack || len(f.functions) > 0 {
		if err := trace.Check(); err != nil {
			return nil, f.refuse(err)
		}
	}
	if len(f.functions) > 0 {
		if t.chosen, err = trace.Choose(f.functions); err != nil {
			return nil, f.refuse(err)
		}
		if len(t.chosen.Names) == 0 {
			return nil, usagef("--functions %s: this kernel has no function of such a name alone", strings.Join(f.functions, " "))
		}
	}
	t.Trace, err = trace.Open(targets, trace.Options{Stack: f.stack, Drops: f.drops, Functions: t.chosen.Names})
	if err != nil {
		return nil, f.refuse(err)
	}
	return t, nil
}

// refuse makes an error of what was asked for; what the kernel lacks is no fault.
func (f probeFlags) refuse(err error) error {
	var flags []string
	if f.stack {
		flags = append(flags, "--stack")
	}
	if len(f.functions) > 0 {
		flags = append(flags, "--functions")
	}
	var none *trace.NoFunctionsError
	switch {
	case errors.Is(err, path.ErrBadPattern):
		return usagef("--functions: %w", err)
	case errors.As(err, &none):
		return usagef("%s: %w", strings.Join(flags, ", "), none)
	case kernel.Missing(err):
		return usagef("probe: %w", err)
	}
	return fmt.Errorf("probe: %w", err)
}

// calls are those of a connection, none where nobody asked.
func (t *tracing) calls(l probe.Line) ([]trace.Call, error) {
	if t == nil || !t.stack {
		return nil, nil
	}
	return t.Calls(l)
}

// waterfall is for people: when each function was called, since the first.
func waterfall(calls []trace.Call) string {
	var b strings.Builder
	for _, c := range calls {
		fmt.Fprintf(&b, "\n    +%-12s %s", time.Duration(c.At-calls[0].At).Round(time.Microsecond/10), c.Function)
	}
	return b.String()
}

type dropJSON struct {
	Schema  string `json:"schema"`
	Version int    `json:"version"`
	trace.DropCount
	Protocol string `json:"protocol"`
}

// printDrops prints what was thrown away since the last time.
func (w *lineWriter) printDrops() error {
	if w.tracing == nil {
		return nil
	}
	drops, err := w.tracing.Drops()
	if err != nil {
		return err
	}
	for _, d := range drops {
		if !w.filter.isEither(d.Src, d.Dst) {
			continue
		}
		if w.json {
			err = json.NewEncoder(w.out).Encode(dropJSON{dropSchema, probeVersion, d, protocolName(d.Protocol)})
		} else {
			_, err = fmt.Fprintln(w.out, dropLine(d))
		}
		if err != nil {
			return fmt.Errorf("print drop: %w", err)
		}
	}
	return nil
}

func dropLine(d trace.DropCount) string {
	at := time.Duration(d.First)
	s := fmt.Sprintf("%d.%06d %s %s dropped %s to %s: %s", at/time.Second, at%time.Second/time.Microsecond,
		d.Pod, protocolName(d.Protocol), d.Src, d.Dst, d.Reason)
	if d.Function != "" {
		s += " in " + d.Function
	}
	if d.Cookie != 0 {
		s += fmt.Sprintf(", socket %d", d.Cookie)
	}
	return s + fmt.Sprintf(", packets %d", d.Packets)
}

// isEither reports whether one of two addresses is taken.
func (d dstFilter) isEither(a, b netip.AddrPort) bool {
	return !d.to.IsValid() || d.is(a) || d.is(b)
}

type functionJSON struct {
	Schema  string `json:"schema"`
	Version int    `json:"version"`
	trace.Count
}

// printFunctions prints the counts, those that were called.
func (w *lineWriter) printFunctions() error {
	if w.tracing == nil {
		return nil
	}
	counts, err := w.tracing.Counts()
	if err != nil {
		return err
	}
	for _, c := range counts {
		if c.Calls == 0 {
			continue
		}
		if w.json {
			err = json.NewEncoder(w.out).Encode(functionJSON{functionSchema, probeVersion, c})
		} else {
			_, err = fmt.Fprintf(w.out, "%s called %d times, %d of them in watched tasks\n", c.Function, c.Calls, c.Watched)
		}
		if err != nil {
			return fmt.Errorf("print function: %w", err)
		}
	}
	return nil
}

// summary says by what functions and drops were seen, and what was left out.
func (t *tracing) summary(to io.Writer) error {
	if t == nil {
		return nil
	}
	var b strings.Builder
	for _, part := range []string{"stack", "functions", "drops"} {
		if by := t.By[part]; by != "" {
			fmt.Fprintf(&b, "%s seen by %s\n", part, by)
		}
	}
	if c := t.chosen; c.Matched > 0 {
		fmt.Fprintf(&b, "%d functions match, %d counted", c.Matched, len(c.Names))
		if c.Over > 0 {
			fmt.Fprintf(&b, ", %d over the limit of %d", c.Over, trace.MaxFunctions)
		}
		if c.Twice > 0 {
			fmt.Fprintf(&b, ", %d left out for their name is not theirs alone", c.Twice)
		}
		b.WriteString("\n")
	}
	if len(t.Left) > 0 {
		fmt.Fprintf(&b, "no program could stand at: %s\n", strings.Join(t.Left, ", "))
	}
	lost, err := t.Lost()
	if err != nil {
		return err
	}
	if lost > 0 {
		fmt.Fprintf(&b, "%d calls and drops found no room\n", lost)
	}
	_, err = io.WriteString(to, b.String())
	return err
}
