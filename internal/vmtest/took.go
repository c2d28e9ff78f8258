package vmtest

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/duomesh/duomesh/internal/kernel"
	"github.com/duomesh/duomesh/internal/testsum"
)

// took is where the time of a machine went, and what its providers saw.
type took struct {
	kernel string
	boot   time.Duration
	runs   []runTime
	// events is how many each provider of the judge and of tracing fired.
	events map[string]uint64
}

type runTime struct {
	name    string
	elapsed time.Duration
}

// fired is what tests say of each provider that saw events.
var fired = regexp.MustCompile(`(?m)provider (\S+) fired: (\d+) events$`)

// count adds the events that a run tells of.
func (t took) count(output string) {
	for _, m := range fired.FindAllStringSubmatch(output, -1) {
		if n, err := strconv.ParseUint(m[2], 10, 64); err == nil {
			t.events[m[1]] += n
		}
	}
}

// fires fails where no provider of a promised way saw anything, on a kernel that runs
// the tests of providers: that they attach is not enough.
func (k Kernel) fires(plan []program, events map[string]uint64) []testsum.Case {
	if !slices.ContainsFunc(plan, func(p program) bool { return p.name == probeRun }) {
		return nil
	}
	var cases []testsum.Case
	for _, way := range []string{kernel.KprobeMulti.Name, kernel.Kprobe.Name, kernel.Fentry.Name} {
		if !k.Promised(way) {
			continue
		}
		n := uint64(0)
		for provider, count := range events {
			if name, _, _ := strings.Cut(provider, "/"); name == way {
				n += count
			}
		}
		c := testsum.Case{Package: k.suite("providers"), Name: "fires: " + way}
		if n == 0 {
			c.Outcome, c.Reason = testsum.Failed, fmt.Sprintf("kernel %s promises %s, and no provider of it saw an event", k.Name, way)
		}
		cases = append(cases, c)
	}
	return cases
}

// printTook writes two tables: the time of each run, and the events of each provider,
// by kernel.
func printTook(w io.Writer, all []took) {
	header := func(first string) table.Row {
		row := table.Row{first}
		for _, t := range all {
			row = append(row, t.kernel)
		}
		return row
	}
	times, events := newTable(w), newTable(w)
	times.AppendHeader(header("seconds"))
	appendRow(times, "boot", all, func(t took) string { return seconds1(t.boot) })
	for _, name := range namesOf(all, func(t took) []string {
		var names []string
		for _, r := range t.runs {
			names = append(names, r.name)
		}
		return names
	}) {
		appendRow(times, name, all, func(t took) string {
			i := slices.IndexFunc(t.runs, func(r runTime) bool { return r.name == name })
			if i < 0 {
				return ""
			}
			return seconds1(t.runs[i].elapsed)
		})
	}
	times.Render()
	events.AppendHeader(header("events of provider"))
	providers := namesOf(all, func(t took) []string { return slices.Sorted(maps.Keys(t.events)) })
	slices.Sort(providers)
	for _, name := range providers {
		appendRow(events, name, all, func(t took) string {
			if t.events[name] == 0 {
				return ""
			}
			return strconv.FormatUint(t.events[name], 10)
		})
	}
	events.Render()
}

func appendRow(t table.Writer, first string, all []took, cell func(took) string) {
	row := table.Row{first}
	for _, one := range all {
		row = append(row, cmp.Or(cell(one), marks[""]))
	}
	t.AppendRow(row)
}

// namesOf are all names, each once, in the order in which they come.
func namesOf(all []took, of func(took) []string) []string {
	var names []string
	for _, t := range all {
		for _, n := range of(t) {
			if !slices.Contains(names, n) {
				names = append(names, n)
			}
		}
	}
	return names
}

func seconds1(d time.Duration) string { return fmt.Sprintf("%.1f", d.Seconds()) }
