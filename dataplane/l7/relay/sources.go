package relay

import (
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/duomesh/duomesh/internal/istiod"
	"github.com/duomesh/duomesh/internal/istiod/workloadapi"
)

// workloadType is what istiod is asked for to know who has which address.
const workloadType = "type.googleapis.com/istio.workload.Workload"

// sources are the workloads of the mesh as istiod says: whose identity a connection from
// an address has, and how one to it must go. It implements istiod.Handler.
type sources struct {
	network string
	log     *slog.Logger
	// changed is called after every change, with nothing held.
	changed func()

	mu    sync.Mutex
	known map[string]source // by the workload's uid
	heard bool
}

// source is one workload.
type source struct {
	identity  string // SPIFFE
	addresses []netip.Addr
	// pod is set for a pod: a kubelet has started it, and its address is its own.
	pod bool
	// shared is set where others have the address as well: a node's own network.
	shared bool
	// tunnel is set where it takes HBONE.
	tunnel bool
}

func newSources(network string, log *slog.Logger, changed func()) *sources {
	return &sources{network: network, log: log, changed: changed, known: map[string]source{}}
}

// Connected implements istiod.Handler.
func (s *sources) Connected() {}

// Disconnected implements istiod.Handler: what was known goes on.
func (s *sources) Disconnected(err error, wait time.Duration) {
	s.log.Warn("who has which address is not heard any more; what is known goes on", "error", err, "again in", wait)
}

// Take implements istiod.Handler.
func (s *sources) Take(r istiod.Response) map[string]error {
	bad := map[string]error{}
	s.mu.Lock()
	for _, res := range r.Resources {
		w := new(workloadapi.Workload)
		if err := res.Body.UnmarshalTo(w); err != nil {
			bad[res.Name] = err
			continue
		}
		one, err := s.sourceOf(w)
		if err != nil {
			bad[res.Name] = err
			continue
		}
		s.known[res.Name] = one
	}
	for _, name := range r.Removed {
		delete(s.known, name)
	}
	for name := range bad {
		delete(s.known, name) // nobody rather than who had it before
	}
	s.heard = true
	s.mu.Unlock()
	s.changed()
	return bad
}

func (s *sources) sourceOf(w *workloadapi.Workload) (source, error) {
	domain, account := w.TrustDomain, w.ServiceAccount
	if domain == "" {
		domain = istiod.DefaultDomain
	}
	out := source{
		pod: strings.Contains(w.Uid, "//Pod/"), shared: w.NetworkMode == workloadapi.NetworkMode_HOST_NETWORK,
		tunnel: w.TunnelProtocol != workloadapi.TunnelProtocol_NONE,
	}
	if account == "" && out.pod {
		account = "default"
	}
	if w.Network != s.network {
		return out, nil // nobody comes from there
	}
	if account != "" { // else nobody can have shown a certificate of it
		out.identity = "spiffe://" + domain + "/ns/" + w.Namespace + "/sa/" + account
	}
	for _, raw := range w.Addresses {
		a, ok := netip.AddrFromSlice(raw)
		if !ok {
			return source{}, fmt.Errorf("an address of %d bytes", len(raw))
		}
		out.addresses = append(out.addresses, a.Unmap())
	}
	return out, nil
}

// waiting says that nothing was heard yet.
func (s *sources) waiting() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.heard
}

// identities are whose each address is. One that is not a single identity's own is
// nobody's: a pod goes before what others say of its address, and of two pods neither
// has it.
func (s *sources) identities() map[netip.Addr]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	pods, others := map[netip.Addr]string{}, map[netip.Addr]string{}
	for _, one := range s.known {
		if one.identity == "" {
			continue
		}
		to := others
		if one.pod {
			to = pods
		}
		for _, a := range one.addresses {
			identity := one.identity
			if had, there := to[a]; one.shared || (there && had != identity) {
				identity = ""
			}
			to[a] = identity
		}
	}
	maps.Copy(others, pods)
	maps.DeleteFunc(others, func(_ netip.Addr, identity string) bool { return identity == "" })
	return others
}

// withoutTunnel are the addresses of workloads that are known to take no HBONE.
func (s *sources) withoutTunnel() map[netip.Addr]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[netip.Addr]bool{}
	for _, one := range s.known {
		for _, a := range one.addresses {
			open, there := all[a]
			all[a] = !one.tunnel && (open || !there)
		}
	}
	return all
}

// Sourceless reports whether it is not known yet who has which address, and is to be.
func (r *Relay) Sourceless() bool {
	r.mu.Lock()
	needed := r.config.ByAddress || r.view.Workloads > 0
	r.mu.Unlock()
	return needed && r.transformer.workloads.waiting()
}
