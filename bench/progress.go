package bench

import (
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/duomesh/duomesh/bench/result"
)

// Lines is a Progress that writes one line per step: for logs and pipes.
type Lines struct {
	Out io.Writer
	// Cells is the number of trials of a block.
	Cells int
}

// Stage implements Progress.
func (l Lines) Stage(text string) { fmt.Fprintln(l.Out, text) }

// Trial implements Progress.
func (l Lines) Trial(t result.Trial, s Step) {
	fmt.Fprintln(l.Out, trialLine(t, s, l.Cells))
}

// Done implements Progress.
func (l Lines) Done() {}

func trialLine(t result.Trial, s Step, cells int) string {
	again := ""
	if t.Attempt > 1 {
		again = fmt.Sprintf(" (again, attempt %d)", t.Attempt)
	}
	return fmt.Sprintf("block %d, %d of %d: %s%s: %d requests, foreign CPU %.1f %%; about %v of trials left",
		t.Block, s.Order, cells, t.Cell, again, t.Client.Requests, 100*s.Foreign, s.Left.Round(time.Second))
}

// barSteps is the length of a bar: progress is time, which has no steps.
const barSteps = 1000

// Bar is a Progress for a terminal: one line that is drawn anew between trials,
// never during one, so that drawing costs no trial anything.
type Bar struct {
	container *mpb.Progress
	bar       *mpb.Bar
	refresh   chan any
	began     time.Time
	cells     int
	text      atomic.Value // string; the drawing goroutine reads it
}

// NewBar draws on a terminal. Cells is the number of trials of a block.
func NewBar(out io.Writer, cells int) *Bar {
	b := &Bar{refresh: make(chan any), began: time.Now(), cells: cells}
	b.text.Store("")
	b.container = mpb.New(mpb.WithOutput(out), mpb.WithWidth(24), mpb.WithManualRefresh(b.refresh))
	b.bar = b.container.AddBar(barSteps, mpb.AppendDecorators(
		decor.Any(func(decor.Statistics) string { return b.text.Load().(string) }),
	))
	return b
}

// Stage implements Progress.
func (b *Bar) Stage(text string) { b.draw(text) }

// Trial implements Progress.
func (b *Bar) Trial(t result.Trial, s Step) {
	spent := time.Since(b.began)
	if total := spent + s.Left; total > 0 {
		// The last step is Done's.
		b.bar.SetCurrent(min(int64(barSteps*spent.Seconds()/total.Seconds()), barSteps-1))
	}
	b.draw(trialLine(t, s, b.cells))
}

// Done implements Progress.
func (b *Bar) Done() {
	b.bar.Abort(false)
	b.draw("done")
	b.container.Shutdown()
}

// draw hands the line to the drawing goroutine, which sleeps otherwise.
func (b *Bar) draw(text string) {
	b.text.Store(text)
	b.refresh <- time.Now()
}
