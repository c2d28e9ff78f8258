package l4

import (
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"slices"
	"time"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// Where a SYN has no room for an address, the hand-off has an id in its place. All
// nodes see the same services, so all find the same ids: the first 32 bits of
// SHA-256 over network, address and port. An id that two frontends have is used by
// neither.

// handoffID is never 0, which means none.
func handoffID(network string, k meshFrontendKey) uint32 {
	text := append([]byte(network), 0)
	for _, word := range k.Addr {
		text = binary.LittleEndian.AppendUint32(text, word)
	}
	text = binary.LittleEndian.AppendUint16(text, k.Port) // both are in network byte order
	sum := sha256.Sum256(text)
	return max(1, binary.LittleEndian.Uint32(sum[:]))
}

// hasID: frontends of workloads have no port, and so no id.
func hasID(k meshFrontendKey) bool { return k.Proto == uint8(intent.TCP) && k.Port != 0 }

// nameOf is the entry of an id: see name_check in bpf/mesh/accept.h.
func nameOf(id uint32, k meshFrontendKey) meshName {
	n := meshName{}
	n.To.Addr, n.To.Port = k.Addr, k.Port
	const (
		k0 = 0x9e3779b185ebca87
		k1 = 0xc2b2ae3d27d4eb4f
		k2 = 0x165667b19e3779f9
		k3 = 0x85ebca77c2b2ae63
		k4 = 0x27d4eb2f165667c5
		k5 = 0xbf58476d1ce4e5b9
	)
	n.Check = uint64(k.Addr[0])*k0 + uint64(k.Addr[1])*k1 + uint64(k.Addr[2])*k2 +
		uint64(k.Addr[3])*k3 + uint64(k.Port)*k4 + uint64(id)*k5
	return n
}

// countIDs finds who has an id after the plan. A frontend that gets or loses a twin
// gets or loses its id, and is touched for that.
func (p *plan) countIDs(s *state) {
	for i := 0; i < len(p.keys); i++ { // touch appends
		k := p.keys[i]
		had, has := len(s.holders[k]) > 0, len(p.holders[k]) > 0
		if had == has || !hasID(k) {
			continue
		}
		id := s.id(p.from.Network, k)
		keys := slices.Clone(p.sharing(s, id))
		if has {
			keys = append(keys, k)
		} else {
			keys = slices.DeleteFunc(keys, func(o meshFrontendKey) bool { return o == k })
		}
		p.ids[id] = keys
		for _, other := range keys {
			p.touch(s, other)
		}
	}
}

// sharing are the frontends that have an id.
func (p *plan) sharing(s *state, id uint32) []meshFrontendKey {
	if keys, touched := p.ids[id]; touched {
		return keys
	}
	return s.ids[id]
}

// id is that of a hand-off to k, 0 when another frontend has the same.
func (p *plan) id(s *state, k meshFrontendKey) uint32 {
	if !hasID(k) {
		return 0
	}
	id := s.id(p.from.Network, k)
	if len(p.sharing(s, id)) > 1 {
		return 0
	}
	return id
}

// rename finds what to write of names where a frontend becomes v; the zero value
// is none.
func (p *plan) rename(s *state, k meshFrontendKey, v meshFrontend) {
	if old := s.fronts[k].Id; old != 0 && old != v.Id {
		p.dropNames = append(p.dropNames, old)
	}
	if v.Id == 0 {
		return
	}
	p.named[v.Id] = true
	if n := nameOf(v.Id, k); s.names[v.Id] != n {
		p.putNames[v.Id] = n
	}
}

// forgetNames drops the names that no frontend has, which an earlier process left.
func (p *plan) forgetNames(s *state) {
	for id := range s.names {
		if !p.named[id] {
			p.dropNames = append(p.dropNames, id)
		}
	}
}

// adoptIDs makes a plan's ids the state's.
func (w *wanted) adoptIDs(p *plan) {
	for id, keys := range p.ids {
		if len(keys) == 0 {
			delete(w.ids, id)
		} else {
			w.ids[id] = keys
		}
	}
}

// isNamed is true when the frontend that a name stands for has its id.
func (m *mirror) isNamed(id uint32) bool {
	to := m.names[id].To
	k := meshFrontendKey{Addr: to.Addr, Port: to.Port, Proto: uint8(intent.TCP)}
	return m.fronts[k].Id == id
}

// namesWith is how many names there are once those of a plan are written.
func (m *mirror) namesWith(p *plan) int {
	n := len(m.names)
	for id := range p.putNames {
		if _, there := m.names[id]; !there {
			n++
		}
	}
	return n
}

// spare are the names that may go where a plan needs room: no frontend has them, also
// after it.
func (m *mirror) spare(p *plan) []uint32 {
	var ids []uint32
	for id := range m.lingering {
		if !p.named[id] {
			ids = append(ids, id)
		}
	}
	return ids
}

func (e *Engine) putNames(p *plan) error {
	names := p.putNames
	if e.state.namesWith(p) > int(e.limits.Names) {
		if err := e.removeNames(e.state.spare(p)); err != nil {
			return err
		}
	}
	var keys []uint32
	var values []meshName
	for id, n := range names {
		keys, values = append(keys, id), append(values, n)
	}
	if err := e.names.put(keys, values); err != nil {
		return err
	}
	maps.Copy(e.state.names, names)
	return nil
}

// lingers is how long a name outlives its frontend, at least: clients on other nodes
// may not have heard yet that the waypoint is not in the way any more.
const lingers = 30 * time.Second

// dropNames lets names go. Those that a frontend has, or has again, stay.
func (e *Engine) dropNames(p *plan) error {
	now := time.Now()
	for _, id := range p.dropNames {
		if _, there := e.state.names[id]; there {
			e.state.lingering[id] = now
		}
	}
	var over []uint32
	for id, since := range e.state.lingering {
		switch {
		case e.state.isNamed(id):
			delete(e.state.lingering, id)
		case now.Sub(since) > lingers || e.isOthers(p, id):
			over = append(over, id)
		}
	}
	return e.removeNames(over)
}

// isOthers is true for a name whose id another frontend has, too: a client may mean
// that one.
func (e *Engine) isOthers(p *plan, id uint32) bool {
	to := e.state.names[id].To
	return slices.ContainsFunc(p.sharing(e.state, id), func(k meshFrontendKey) bool {
		return k.Addr != to.Addr || k.Port != to.Port
	})
}

func (e *Engine) removeNames(ids []uint32) error {
	if err := e.names.remove(ids); err != nil {
		return err
	}
	for _, id := range ids {
		delete(e.state.names, id)
		delete(e.state.lingering, id)
	}
	return nil
}
