package xds

import (
	"fmt"
	"net/netip"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/dataplane/source/xds/names"
)

// hostname is a name by which workloads are known, and its answer.
type hostname struct {
	users     map[*workload]struct{}
	answered  bool
	addresses []netip.Addr
	problem   string
}

// resolve says which name a workload is known by now, and which before.
func (m *mesh) resolve(w *workload, old, now string) {
	if old == now {
		return
	}
	if h := m.names[old]; h != nil {
		if delete(h.users, w); len(h.users) == 0 {
			delete(m.names, old)
			m.renamed++
		}
	}
	if now == "" {
		return
	}
	if m.names[now] == nil {
		m.names[now] = &hostname{users: map[*workload]struct{}{}}
		m.renamed++
	}
	m.names[now].users[w] = struct{}{}
}

// resolved takes the answer for a name. The addresses of what failed are those of
// the last answer.
func (m *mesh) resolved(name string, a names.Answer) {
	h := m.names[name]
	if h == nil {
		return // nobody wants it any more
	}
	h.answered, h.addresses, h.problem = true, nil, ""
	for _, addr := range a.Addresses {
		if why := intent.Unusable(addr); why != "" {
			h.problem = fmt.Sprintf("address %s is not used: %s", addr, why)
			continue
		}
		h.addresses = append(h.addresses, addr)
	}
	if a.Err != nil {
		h.problem = a.Err.Error()
	}
	for w := range h.users {
		m.change(w)
	}
	m.settle()
}

// pending reports whether a name has neither an answer nor a failure yet.
func (m *mesh) pending() bool {
	for _, h := range m.names {
		if !h.answered {
			return true
		}
	}
	return false
}

func (h *hostname) lines(name string) []string {
	switch {
	case !h.answered:
		return []string{fmt.Sprintf("hostname %s: not resolved yet", name)}
	case h.problem != "" && len(h.addresses) > 0:
		return []string{fmt.Sprintf("hostname %s: %s; the last answer stays in force", name, h.problem)}
	case h.problem != "":
		return []string{fmt.Sprintf("hostname %s: %s; its workloads are never chosen", name, h.problem)}
	case len(h.addresses) == 0:
		return []string{fmt.Sprintf("hostname %s: it has no address; its workloads are never chosen", name)}
	}
	return nil
}
