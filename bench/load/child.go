package load

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"fortio.org/log"
)

// IsChild says whether this process was started as a client or server.
func IsChild() bool {
	name := childName()
	return name == ClientName || name == ServerName
}

func childName() string {
	if len(os.Args) == 0 {
		return ""
	}
	return filepath.Base(os.Args[0])
}

// Main runs the child and returns its exit code.
func Main() int {
	log.SetLogLevelQuiet(log.Error)
	p := &pipes{in: bufio.NewReader(os.Stdin), out: bufio.NewWriter(os.Stdout)}
	run := runServer
	if childName() == ClientName {
		run = runClient
	}
	if err := run(p); err != nil {
		// The calling end has the error as a line; standard error is for the
		// case that the pipe itself is what broke.
		fmt.Fprintf(os.Stderr, "%s: %v\n", childName(), err)
		_ = p.say(message{Event: eventError, Error: err.Error()})
		return 1
	}
	return 0
}

// pipes is a child's end of the protocol.
type pipes struct {
	in  *bufio.Reader
	out *bufio.Writer
}

func (p *pipes) say(m message) error {
	line, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode %s: %w", m.Event, err)
	}
	return p.write(append(line, '\n'))
}

func (p *pipes) write(b []byte) error {
	if _, err := p.out.Write(b); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	if err := p.out.Flush(); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	return nil
}

// spec reads the first line, which says what to do.
func (p *pipes) spec(into any) error {
	line, err := p.in.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("read what to do: %w", err)
	}
	if err := json.Unmarshal(line, into); err != nil {
		return fmt.Errorf("read what to do: %w", err)
	}
	return nil
}

// word reads the next command; an io.EOF when the caller is gone.
func (p *pipes) word() (string, error) {
	line, err := p.in.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("read command: %w", err)
	}
	return strings.TrimSuffix(line, "\n"), nil
}

func (p *pipes) expect(want string) error {
	got, err := p.word()
	if err != nil {
		return fmt.Errorf("wait for %q: %w", want, err)
	}
	if got != want {
		return fmt.Errorf("wait for %q: got %q", want, got)
	}
	return nil
}
