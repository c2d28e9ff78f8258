package ambient

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"

	"github.com/duomesh/duomesh/internal/kernel"
)

// Running is a node proxy that runs, asked in its own network namespace. It is the
// caller's who started it.
type Running struct {
	netns *os.File
	http  http.Client
}

// At asks the node proxy in a network namespace. The descriptor is the caller's, open
// until Close.
func At(netns *os.File) *Running {
	r := &Running{netns: netns}
	r.http.Transport, r.http.Timeout = &http.Transport{DialContext: r.dial}, answerPatience
	return r
}

// Close ends the connections to it.
func (r *Running) Close() { r.http.CloseIdleConnections() }

// dial connects from inside the namespace.
func (r *Running) dial(ctx context.Context, _, address string) (c net.Conn, err error) {
	err = kernel.InNetns(r.netns, func() (err error) {
		var d net.Dialer
		c, err = d.DialContext(ctx, "tcp4", address)
		return err
	})
	return c, err
}

// maxAnswer bounds what is read of an answer.
const maxAnswer = 8 << 20

func (r *Running) get(ctx context.Context, url string) ([]byte, error) {
	return r.ask(ctx, http.MethodGet, url)
}

func (r *Running) ask(ctx context.Context, method, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return nil, err
	}
	reply, err := r.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer reply.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(http.MaxBytesReader(nil, reply.Body, maxAnswer)); err != nil {
		return nil, fmt.Errorf("read %s: %w", url, err)
	}
	if reply.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s: %.200s", url, reply.Status, b.Bytes())
	}
	return b.Bytes(), nil
}

// Opened is what the proxy has counted since it was started.
func (r *Running) Opened(ctx context.Context) ([]Opened, error) {
	text, err := r.get(ctx, "http://"+metricsAddress+"/metrics")
	if err != nil {
		return nil, fmt.Errorf("read counters: %w", err)
	}
	return parseOpened(text)
}

// About is what a ztunnel says of itself.
type About struct {
	// Version is in one line: version, revision, form of build.
	Version string
	// Workers is the number of threads that carry traffic.
	Workers int
	// AccessLog says whether it writes a line per connection.
	AccessLog bool
}

// About asks a ztunnel at its admin port.
func (r *Running) About(ctx context.Context) (About, error) {
	dump, err := r.get(ctx, "http://"+adminAddress+"/config_dump")
	if err != nil {
		return About{}, fmt.Errorf("ask the node proxy what it is: %w", err)
	}
	a, err := parseAbout(dump)
	if err != nil {
		return a, err
	}
	level, err := r.ask(ctx, http.MethodPost, "http://"+adminAddress+"/logging")
	if err != nil {
		return a, fmt.Errorf("ask the node proxy what it logs: %w", err)
	}
	a.AccessLog = !strings.Contains(string(level), "access=off")
	return a, nil
}

func parseAbout(dump []byte) (About, error) {
	var said struct {
		Version struct{ Version, GitRevision, BuildProfile, CryptoProvider string }
		Config  struct{ NumWorkerThreads int }
	}
	if err := json.Unmarshal(dump, &said); err != nil {
		return About{}, fmt.Errorf("read the node proxy's configuration: %w", err)
	}
	v := said.Version
	if v.Version == "" || said.Config.NumWorkerThreads == 0 {
		return About{}, fmt.Errorf("the node proxy's configuration does not say which version it is, or how many threads it has: %.200s", dump)
	}
	words := []string{v.Version, v.GitRevision, v.BuildProfile, v.CryptoProvider}
	return About{Version: strings.Join(strings.Fields(strings.Join(words, " ")), " "), Workers: said.Config.NumWorkerThreads}, nil
}
