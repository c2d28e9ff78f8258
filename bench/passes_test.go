package bench

import (
	"bufio"
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/duomesh/duomesh/bench/load"
	"github.com/duomesh/duomesh/bench/result"
)

// connecting is an engine, and a server, of a client that connects and makes all its
// requests while the server is being asked.
type connecting struct {
	redirects
	runs     uint64
	requests int64
}

const runsOfConnect = 2

func (c *connecting) Programs() (result.Programs, error) { return result.Programs{Runs: c.runs}, nil }

// serve answers like a server process. The first answer is from before the client.
func (c *connecting) serve(in io.Reader, out io.Writer) error {
	asked := bufio.NewScanner(in)
	for n := 0; asked.Scan(); n++ {
		if n > 0 {
			c.runs, c.requests = runsOfConnect, 100
		}
		line, err := json.Marshal(map[string]any{"event": "counts", "counts": load.Counts{Requests: c.requests}})
		if err != nil {
			return err
		}
		if _, err := out.Write(append(line, '\n')); err != nil {
			return err
		}
	}
	return asked.Err()
}

// TestStandingHasTheConnects: a machine that is busy may stop the reader between two
// readings for as long as connecting takes.
func TestStandingHasTheConnects(t *testing.T) {
	asks, ask := io.Pipe()
	answer, answers := io.Pipe()
	c := new(connecting)
	done := make(chan error, 1)
	go func() { done <- c.serve(asks, answers) }()
	p := &pair{site: Site{Engine: c}, server: load.NewServer(ask, answer)}
	start, before, err := p.counts()
	if err != nil {
		t.Fatal(err)
	}
	stood, middle, err := p.standing(t.Context(), nil, start, 1)
	if err != nil {
		t.Fatal(err)
	}
	if got := middle.Sub(before).Runs; got != runsOfConnect || stood.Requests == 0 {
		t.Errorf("%d program runs until connected, %d requests: want %d runs, none is to come after", got, stood.Requests, runsOfConnect)
	}
	// A load that is over does not get there any more.
	over := make(chan struct{})
	close(over)
	if _, _, err := p.standing(t.Context(), over, start, 1000); err == nil || !strings.Contains(err.Error(), "over after 100 requests, 4000 are needed") {
		t.Errorf("a load that was over: %v", err)
	}
	ask.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
