package verify

import (
	"time"

	"github.com/duomesh/duomesh/internal/traffic"
)

// Progress is how far the loads of a phase are.
type Progress struct {
	Scenario string
	// Made of the Declared connections are over, Failed of them with an error: Last is
	// what the last of these met.
	Made, Declared, Failed int
	Last                   string
}

// progressEvery is the time between two reports of loads that take long.
const progressEvery = 10 * time.Second

// progress is what clients have told so far. loadEvidence.mu guards it.
type progress struct {
	made, failed int
	last         string
}

// saw counts a connection when its client tells of it.
func (le *loadEvidence) saw(c traffic.Conn) {
	if c.Role == traffic.Progress {
		return
	}
	le.mu.Lock()
	defer le.mu.Unlock()
	le.so.made++
	if c.Errno != "" {
		le.so.failed++
		le.so.last = c.Op + ": " + c.Errno
	}
}

// report tells how far loads are until the returned function is called.
func (g *gatherer) report(loads []*loadEvidence) (stop func()) {
	if g.options.Progress == nil {
		return func() {}
	}
	over, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(progressEvery)
		defer tick.Stop()
		for {
			select {
			case <-over:
				return
			case <-tick.C:
				g.options.Progress(progressOf(g.scenario.Name, loads))
			}
		}
	}()
	return func() {
		close(over)
		<-ended
	}
}

func progressOf(scenario string, loads []*loadEvidence) Progress {
	p := Progress{Scenario: scenario}
	for _, le := range loads {
		le.mu.Lock()
		p.Declared += le.load.Connections
		p.Made += le.so.made
		p.Failed += le.so.failed
		if le.so.failed > 0 {
			p.Last = le.so.last
		}
		le.mu.Unlock()
	}
	return p
}
