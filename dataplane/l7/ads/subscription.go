package ads

import (
	"maps"
	"slices"
	"strconv"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// wildcard stands for every resource of a type.
const wildcard = "*"

// Subscription is what one stream asked for of one type, and what it was sent.
// It is not safe for concurrent use.
type Subscription struct {
	typeURL string
	// prefix begins the nonces.
	prefix string
	all    bool
	names  map[string]bool
	held   map[string]string // versions as sent
	// lacks are the names asked for of which Envoy was never sent anything.
	lacks map[string]bool
	asked bool
	sent  uint64
	// waiting is the nonce that was neither taken nor refused yet, and sending what was
	// sent with it; "" is none.
	waiting string
	sending Set
	// verdicts are those of all streams.
	verdicts *Verdicts
}

// NewSubscription begins with nothing asked for. Nonces begin with prefix. What Envoy
// thinks of resources is written to verdicts, which outlive it.
func NewSubscription(typeURL, prefix string, verdicts *Verdicts) *Subscription {
	return &Subscription{
		typeURL: typeURL, prefix: prefix, names: map[string]bool{}, held: map[string]string{}, lacks: map[string]bool{},
		verdicts: verdicts,
	}
}

// Ask takes a request of Envoy: what it wants more or no longer, and its answer to
// what was sent.
func (s *Subscription) Ask(q *discovery.DeltaDiscoveryRequest) {
	if q.ResponseNonce != "" && q.ResponseNonce == s.waiting {
		s.verdicts.note(s.sending, q.GetErrorDetail().GetMessage(), q.ErrorDetail != nil)
		s.waiting, s.sending = "", nil
	}
	first := !s.asked
	s.asked = true
	if first {
		// A new stream says what the last one left.
		maps.Copy(s.held, q.InitialResourceVersions)
		for name := range q.InitialResourceVersions {
			s.names[name] = true
		}
		// Nothing named in the first request is the old way to ask for all.
		s.all = len(q.ResourceNamesSubscribe) == 0
	}
	for _, name := range q.ResourceNamesSubscribe {
		if name == wildcard {
			s.all = true
			continue
		}
		s.names[name] = true
		if !first || q.InitialResourceVersions[name] == "" {
			delete(s.held, name) // asked for again: sent again
			s.lacks[name] = true
		}
	}
	for _, name := range q.ResourceNamesUnsubscribe {
		if name == wildcard {
			s.all = false
			continue
		}
		delete(s.names, name)
		delete(s.lacks, name)
		if !s.all {
			delete(s.held, name)
		}
	}
}

// Names are those asked for, other than all, in their order.
func (s *Subscription) Names() []string { return slices.Sorted(maps.Keys(s.names)) }

// Answered reports whether Envoy has asked, and has answered all that it was sent.
func (s *Subscription) Answered() bool { return s.asked && s.waiting == "" }

// Whole reports whether Envoy was sent something of all that it asked for by name, and
// has answered.
func (s *Subscription) Whole() bool { return len(s.lacks) == 0 && s.waiting == "" }

// Next is what Envoy must be sent so that it has what it asked for of have; nil when
// there is nothing, or when the last one was not answered yet.
func (s *Subscription) Next(have Set) *discovery.DeltaDiscoveryResponse {
	if !s.asked || s.waiting != "" {
		return nil
	}
	out := &discovery.DeltaDiscoveryResponse{TypeUrl: s.typeURL}
	sending := Set{}
	for _, name := range slices.Sorted(maps.Keys(have)) {
		body := have[name]
		if (!s.all && !s.names[name]) || s.held[name] == body.Version {
			continue
		}
		if s.held[name] == "" {
			// An Envoy that is new begins with what the last one had taken.
			body = s.verdicts.instead(name, body)
		}
		sending[name] = body
		s.held[name] = body.Version
		delete(s.lacks, name)
		out.Resources = append(out.Resources, &discovery.Resource{Name: name, Version: body.Version, Resource: body.Any})
	}
	for _, name := range slices.Sorted(maps.Keys(s.held)) {
		if _, there := have[name]; !there {
			delete(s.held, name)
			out.RemovedResources = append(out.RemovedResources, name)
		}
	}
	if len(out.Resources)+len(out.RemovedResources) == 0 {
		return nil
	}
	s.sent++
	s.waiting, s.sending = s.prefix+strconv.FormatUint(s.sent, 10), sending
	out.Nonce, out.SystemVersionInfo = s.waiting, s.waiting
	return out
}

// Again makes Envoy be sent a resource once more, if it has asked for it.
func (s *Subscription) Again(name string) {
	if s.all || s.names[name] {
		delete(s.held, name)
	}
}

// Settled reports whether Envoy has asked for all of need, was sent what have has of
// what it asked for, and has answered; refusal is its reason when there is something of
// have that it did not take, or where there is need, something of that.
func (s *Subscription) Settled(have, need Set) (settled bool, refusal string) {
	if s.waiting != "" {
		return false, ""
	}
	for name, body := range have {
		_, needed := need[name]
		if (needed || s.all || s.names[name]) && s.held[name] != body.Version {
			return false, ""
		}
	}
	for name := range s.held {
		if _, there := have[name]; !there {
			return false, ""
		}
	}
	return true, s.verdicts.refusal(have, need)
}
