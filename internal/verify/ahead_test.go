package verify

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/duomesh/duomesh/internal/report"
	"github.com/duomesh/duomesh/internal/scenario"
)

// TestAhead opens one world more than runs, and never two; results are in the order in
// which runs began.
func TestAhead(t *testing.T) {
	all := scenario.All()[:4]
	for _, ahead := range []int{0, 1} {
		opened, release := make(chan string), make(chan struct{})
		var done []string
		o := Options{
			Seed: 1, Ahead: ahead,
			Open: func(ctx context.Context, _ scenario.Topology) (scenario.World, error) {
				opened <- "one"
				<-release
				return nil, errors.New("no world")
			},
			Done: func(r report.Result) { done = append(done, r.Scenario) },
		}
		results := make(chan []report.Result)
		go func() { results <- All(t.Context(), all, o) }()
		for range ahead + 1 {
			<-opened
		}
		for i := range all {
			select {
			case <-opened:
				t.Errorf("ahead %d: %d worlds are open at once", ahead, ahead+2)
			default:
			}
			release <- struct{}{}
			if i < len(all)-1-ahead {
				<-opened
			}
		}
		got := <-results
		var names, want []string
		for _, r := range got {
			names = append(names, r.Scenario)
			if r.Verdict != report.Inconclusive {
				t.Errorf("%s: %s", r.Scenario, r.Verdict)
			}
		}
		for _, s := range all {
			want = append(want, s.Name)
		}
		slices.Sort(names)
		slices.Sort(want)
		slices.Sort(done)
		if !slices.Equal(names, want) || !slices.Equal(done, want) {
			t.Errorf("ahead %d: results of %v, told of %v, want %v", ahead, names, done, want)
		}
	}
}

// TestTurn: loads of several scenarios never run at the same time.
func TestTurn(t *testing.T) {
	turn := make(chan struct{}, 1)
	var inside, most, runs atomic.Int64
	var group errgroup.Group
	for i := range 8 {
		g := gatherer{options: Options{turn: turn}, scenario: scenario.Scenario{Name: strconv.Itoa(i)}}
		group.Go(func() error {
			return g.inTurn(t.Context(), func() error {
				most.Store(max(most.Load(), inside.Add(1)))
				runs.Add(1)
				inside.Add(-1)
				return nil
			})
		})
	}
	if err := group.Wait(); err != nil || most.Load() != 1 || runs.Load() != 8 {
		t.Errorf("%d loads at once, %d ran: %v", most.Load(), runs.Load(), err)
	}
	turn <- struct{}{}
	ended, end := context.WithCancel(t.Context())
	end()
	g := gatherer{options: Options{turn: turn}}
	if err := g.inTurn(ended, func() error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("one that waits when all ends: %v", err)
	}
}
