package kubeproxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/kernel"
)

// ErrNoIptables is returned where a program of the iptables package is missing.
var ErrNoIptables = errors.New("is not installed: it comes with the package iptables")

// Proxy holds the rules of one network namespace. The rules go with the
// namespace.
type Proxy struct {
	ns       *os.File
	families []*family

	mu sync.Mutex
}

// family is the rules of one address family.
type family struct {
	restore string // path of iptables-restore or ip6tables-restore
	v6      bool
	hooked  bool
	chains  []string
}

// New finds the iptables programs; it writes nothing yet. ns stays the caller's
// and must be open as long as the Proxy is used.
func New(ns *os.File, ipv6 bool) (*Proxy, error) {
	p := &Proxy{ns: ns}
	names := []string{"iptables-restore"}
	if ipv6 {
		names = append(names, "ip6tables-restore")
	}
	for i, name := range names {
		path, err := find(name)
		if err != nil {
			return nil, err
		}
		p.families = append(p.families, &family{restore: path, v6: i == 1})
	}
	return p, nil
}

// find looks a program up in PATH and where administrators' programs are.
func find(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s %w", name, ErrNoIptables)
}

// Apply replaces the rules by those for s. Each table is replaced in one step;
// connections that exist keep their endpoint (conntrack).
func (p *Proxy) Apply(ctx context.Context, s intent.Snapshot) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.families {
		if err := f.apply(ctx, p.ns, s); err != nil {
			return err
		}
	}
	return nil
}

func (f *family) apply(ctx context.Context, ns *os.File, s intent.Snapshot) error {
	if !f.hooked {
		if err := f.write(ctx, ns, []byte(hooks)); err != nil {
			return err
		}
		f.hooked = true
	}
	input, chains := render(s, f.v6, f.chains)
	if err := f.write(ctx, ns, input); err != nil {
		return err
	}
	f.chains = chains
	return nil
}

// write runs iptables-restore inside the namespace.
func (f *family) write(ctx context.Context, ns *os.File, input []byte) error {
	// -w: wait for whoever holds the lock of iptables.
	cmd := exec.CommandContext(ctx, f.restore, "--noflush", "-w", "10")
	var said bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(input), &said
	err := kernel.InNetns(ns, cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return fmt.Errorf("write rules with %s: %w: %s", f.restore, err, strings.TrimSpace(said.String()))
	}
	return nil
}
