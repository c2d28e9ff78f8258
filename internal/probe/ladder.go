package probe

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/duomesh/duomesh/internal/kernel"
)

// sensor is one way to see some kinds of events: a provider. A new one is a new
// file and a line in [ladders].
type sensor interface {
	// Name is how results call it.
	Name() string
	// Open loads the programs and attaches them, for good where the hook is the
	// machine's, for a trial on t where it is a target's. An error that
	// [kernel.Missing] knows means that this kernel has no such thing. It
	// leaves nothing behind when it fails.
	Open(o *objects, t Target) error
	// Watch attaches to a target what is a target's; the closer detaches it.
	// It may be nil.
	Watch(t Target) (io.Closer, error)
	// Missed is how many events the kernel kept from the programs and nobody
	// else reported.
	Missed() (uint64, error)
	// Close detaches and unloads.
	Close() error
}

// ladder lists the sensors of some kinds of events, the best first.
type ladder struct {
	kinds   []Kind
	sensors []sensor
	// need: without a sensor the judge is blind and does not open.
	need bool
}

// ladders are all the ways that this build knows.
func ladders(o Options) []ladder {
	return []ladder{
		{kinds: []Kind{Asked}, sensors: []sensor{
			&cgroupAsked{udp: o.UDP, late: o.late},
			&connectFentry{}, &connectMulti{}, &connectKprobe{}, &syscallAsked{},
		}},
		{kinds: []Kind{Released}, sensors: []sensor{&cgroupRelease{}}},
		{
			kinds:   []Kind{SynSent, Established, Closed},
			sensors: []sensor{&stateBTF{}, &stateFentry{}, &stateRaw{}, &stateMulti{}, &stateKprobe{}},
			need:    true,
		},
		{kinds: []Kind{WireSyn}, sensors: []sensor{&tcxWire{}, &filterWire{}}},
	}
}

// Provider says which hook reports a kind of event.
type Provider struct {
	// Name is empty where no provider works here: the event is not seen.
	Name string `json:"name,omitempty"`
	// PassedOver lists better providers with the reason why they do not work.
	PassedOver []string `json:"passed_over,omitempty"`
}

// String says it in one line.
func (p Provider) String() string {
	s := p.Name
	if s == "" {
		s = "none"
	}
	if len(p.PassedOver) == 0 {
		return s
	}
	return s + " (not: " + strings.Join(p.PassedOver, "; ") + ")"
}

// CheckProviders says which of the names is no provider's.
func CheckProviders(names []string) error {
	_, err := choose(ladders(Options{}), names)
	return err
}

// ProviderNames are those that CheckProviders takes.
func ProviderNames() []string {
	var all []string
	for _, l := range ladders(Options{}) {
		for _, s := range l.sensors {
			all = append(all, s.Name())
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// choose keeps of each ladder the sensors that are named, where one is.
func choose(all []ladder, names []string) ([]ladder, error) {
	known := map[string]bool{}
	for i, l := range all {
		var kept []sensor
		for _, s := range l.sensors {
			known[s.Name()] = true
			if slices.Contains(names, s.Name()) {
				kept = append(kept, s)
			}
		}
		if len(kept) > 0 {
			all[i].sensors = kept
		}
	}
	for _, n := range names {
		if !known[n] {
			return nil, fmt.Errorf("provider %s: unknown, must be one of %s",
				n, strings.Join(slices.Sorted(maps.Keys(known)), ", "))
		}
	}
	return all, nil
}

// climb opens the first sensor that works here. The sensor is nil when none does.
func (l ladder) climb(o *objects, t Target) (sensor, Provider, error) {
	var p Provider
	for _, s := range l.sensors {
		err := s.Open(o, t)
		if err == nil {
			p.Name = s.Name()
			return s, p, nil
		}
		if !kernel.Missing(err) {
			return nil, p, fmt.Errorf("observe %s by %s: %w", l, s.Name(), err)
		}
		p.PassedOver = append(p.PassedOver, s.Name()+": "+kernel.Innermost(err))
	}
	if l.need {
		return nil, p, fmt.Errorf("observe %s: this kernel has none of the providers: %s", l, p)
	}
	return nil, p, nil
}

// String names the kinds of events.
func (l ladder) String() string {
	var names []string
	for _, k := range l.kinds {
		names = append(names, k.String())
	}
	return strings.Join(names, ", ")
}

// closers closes what was opened, the newest first.
type closers []io.Closer

// Close closes all and joins the errors. It may be called again.
func (c *closers) Close() error {
	var errs []error
	for _, x := range slices.Backward(*c) {
		errs = append(errs, x.Close())
	}
	*c = nil
	return errors.Join(errs...)
}
