package xds

import (
	"fmt"
	"strings"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// A waypoint's Gateway may say by an annotation how connections are handed to it; the
// others have the node's default. Where an annotation makes no sense the default holds,
// and where it is another than the one that the agent was told, it holds: both are
// said, and counted.

// annotated is what the annotation of a waypoint's Gateway says, "" when it has none.
// istiod gives the Service of a Gateway its name.
func (m *mesh) annotated(w *waypoint) string {
	if w.behind != nil {
		return m.handoffs[w.behind.base.Key()]
	}
	if namespace, host, ok := strings.Cut(w.service, "/"); ok {
		name, _, _ := strings.Cut(host, ".")
		return m.handoffs[namespace+"/"+name]
	}
	return ""
}

// codec is how connections are handed to a waypoint, and what is to be said of that.
func (m *mesh) codec(w *waypoint) (codec intent.Codec, line string) {
	told := m.config.handoff()
	switch said := intent.Codec(m.annotated(w)); {
	case said == "" || said == told:
		return told, ""
	case said.Port() == 0:
		return told, fmt.Sprintf("waypoint %s: its annotation asks for the hand-off %q, which is unknown: want original-dst, proxy-v2 or kmesh-tlv; %s is used", w, said, told)
	case m.config.Handoff != "":
		return said, fmt.Sprintf("waypoint %s: its annotation asks for the hand-off %s, the agent was told %s: the annotation is followed", w, said, told)
	default:
		return said, ""
	}
}

// setHandoffs takes the annotations of all Gateways.
func (m *mesh) setHandoffs(all map[string]string) {
	m.handoffs = all
	for _, w := range m.waypoints {
		m.looked.add(w)
	}
	m.settle()
}

// handoffLines says where annotations are not followed, or are against what the agent
// was told.
func (m *mesh) handoffLines() []string {
	var all []string
	for _, w := range m.waypoints {
		if _, line := m.codec(w); line != "" {
			all = append(all, line)
		}
	}
	return all
}
