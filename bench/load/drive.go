package load

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
)

// Client is the calling end of a client process. Its methods are called in
// order: Warm, Run, Collect. They end when the process does; who wants to give
// up kills it. The streams stay the caller's.
type Client struct{ caller }

// NewClient steers the process behind the streams.
func NewClient(stdin io.Writer, stdout io.Reader) *Client {
	return &Client{caller{ClientName, stdin, bufio.NewReader(stdout)}}
}

// Warm says what to do and returns when the warm-up is over.
func (c *Client) Warm(s Spec) error {
	if err := c.send(s); err != nil {
		return err
	}
	_, err := c.receive(eventWarm)
	return err
}

// Run lets the timed requests go and returns when the last is answered.
func (c *Client) Run() error {
	if err := c.ask(askGo); err != nil {
		return err
	}
	_, err := c.receive(eventDone)
	return err
}

// Result is what a client process hands over.
type Result struct {
	Report Report
	// Samples is a file for ReadSamples.
	Samples []byte
	// Fortio is fortio's own result, JSON. Its histograms do not know of
	// intended times.
	Fortio []byte
}

// Collect fetches the result; the process then ends by itself.
func (c *Client) Collect() (Result, error) {
	if err := c.ask(askCollect); err != nil {
		return Result{}, err
	}
	m, err := c.receive(eventReport)
	if err != nil {
		return Result{}, err
	}
	if m.Report == nil {
		return Result{}, fmt.Errorf("%s: a report without content", c.name)
	}
	res := Result{
		Report:  *m.Report,
		Samples: make([]byte, m.Report.SampleBytes),
		Fortio:  make([]byte, m.Report.FortioBytes),
	}
	for _, part := range [][]byte{res.Samples, res.Fortio} {
		if _, err := io.ReadFull(c.out, part); err != nil {
			return Result{}, fmt.Errorf("%s: read samples: %w", c.name, err)
		}
	}
	return res, nil
}

// Server is the calling end of a server process. Closing its standard input
// ends it. The streams stay the caller's.
type Server struct{ caller }

// NewServer steers the process behind the streams.
func NewServer(stdin io.Writer, stdout io.Reader) *Server {
	return &Server{caller{ServerName, stdin, bufio.NewReader(stdout)}}
}

// Listen says what to do and returns the port when the server listens on it.
func (s *Server) Listen(spec ServerSpec) (port uint16, err error) {
	if err := s.send(spec); err != nil {
		return 0, err
	}
	m, err := s.receive(eventReady)
	if err != nil {
		return 0, err
	}
	return m.Counts.Port, nil
}

// Counts returns what the server has seen so far.
func (s *Server) Counts() (Counts, error) {
	if err := s.ask(askCount); err != nil {
		return Counts{}, err
	}
	m, err := s.receive(eventCounts)
	if err != nil {
		return Counts{}, err
	}
	return *m.Counts, nil
}

type caller struct {
	name string
	in   io.Writer
	out  *bufio.Reader
}

func (c caller) send(spec any) error {
	line, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("%s: encode what to do: %w", c.name, err)
	}
	return c.ask(string(line))
}

func (c caller) ask(word string) error {
	if _, err := io.WriteString(c.in, word+"\n"); err != nil {
		return fmt.Errorf("%s: command: %w", c.name, err)
	}
	return nil
}

func (c caller) receive(want string) (message, error) {
	line, err := c.out.ReadBytes('\n')
	if err != nil {
		return message{}, fmt.Errorf("%s: ended before %q: %w", c.name, want, err)
	}
	var m message
	if err := json.Unmarshal(line, &m); err != nil {
		return message{}, fmt.Errorf("%s: answer %q: %w", c.name, line, err)
	}
	if m.Event == eventError {
		return message{}, fmt.Errorf("%s: %s", c.name, m.Error)
	}
	if m.Event != want || (want == eventReady || want == eventCounts) && m.Counts == nil {
		return message{}, fmt.Errorf("%s: answered %q where %q was due", c.name, line, want)
	}
	return m, nil
}
