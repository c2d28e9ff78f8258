package l4

import (
	"fmt"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// Event is something that happened in a run of a program, counted beside the
// run's exit.
type Event string

// The events.
const (
	// Retry: a frontend was read again, since it was being replaced.
	Retry Event = "retry"
	// RefuseSlotMiss: a frontend named a slot that is not there, twice, and the
	// connection was refused. It never happens while only engines write the maps.
	RefuseSlotMiss Event = "refuse-slot-miss"
	// OriginLost: a connection was redirected, but the kernel had no memory to
	// keep the asked address: getpeername answers the endpoint.
	OriginLost Event = "origin-lost"
	// RefuseNoFlow: a UDP connect or send, or a connection to a waypoint, was
	// refused, since the kernel had no memory to keep what it asked for: its replies
	// would show the endpoint, and the waypoint could not know where it was going.
	RefuseNoFlow Event = "refuse-no-flow"
	// RefuseCodec: a connection to a waypoint that wants a header in front of the
	// first bytes was refused, since nobody could put one there: MPTCP, Fast Open.
	RefuseCodec Event = "refuse-codec"
	// FlowEvicted: a UDP socket sends to more addresses than are kept for it, so
	// its next datagram to the one it used least recently is chosen anew.
	FlowEvicted Event = "flow-evicted"
	// FlowShared: a UDP socket sends to two addresses that lead to one endpoint,
	// and there was no other: replies show the address that it used last.
	FlowShared Event = "flow-shared"
)

// The events of a hand-off, each at most once for a connection: the last four at the
// waypoint's node, the others at the client's.
const (
	// HandoffFull: the SYN has the asked address and port.
	HandoffFull Event = "handoff-full"
	// HandoffShort: it has the id of both, for want of room.
	HandoffShort Event = "handoff-short"
	// HandoffUnsent: it had room for neither, or there is no id. The waypoint
	// refuses the connection.
	HandoffUnsent Event = "handoff-unsent"
	// HandoffResent: the waypoint answered with a SYN cookie, and got the same in
	// the packet after the SYN.
	HandoffResent Event = "handoff-resent"
	// HandoffHeader: a header is in front of the first bytes.
	HandoffHeader Event = "handoff-header"
	// HandoffEarly: bytes left before a header could be written: by Fast Open, or by
	// a send that began before the connection was established. The waypoint refuses
	// the connection.
	HandoffEarly Event = "handoff-early"
	// HandoffSilent: a connection to a waypoint that wants a header ended without
	// the client's having sent anything, as where the server would have to speak
	// first.
	HandoffSilent Event = "handoff-silent"
	// HandoffUnwritten: there was no room for the socket (Limits.Unsent), and the
	// waypoint refuses the connection, or no memory for the header, and the send
	// failed with EACCES. This one is counted for each send.
	HandoffUnwritten Event = "handoff-unwritten"
	// HandoffUnreached: the waypoint refused a connection, or did not answer: nobody may
	// listen at its hand-off port.
	HandoffUnreached Event = "handoff-unreached"
	// HandoffAnswered: SO_ORIGINAL_DST answers the asked address.
	HandoffAnswered Event = "handoff-answered"
	// HandoffNoAnswer: a connection at the hand-off port said nothing of where it
	// was going. The kernel's own answer stands.
	HandoffNoAnswer Event = "handoff-no-answer"
	// HandoffUnknownID: it had an id that this node does not know, or that several
	// addresses have.
	HandoffUnknownID Event = "handoff-unknown-id"
	// HandoffLost: there was no memory to keep it.
	HandoffLost Event = "handoff-lost"
)

var exitNames = map[meshMeshExit]intent.Exit{
	meshMeshExitEXIT_PASS_UNMANAGED:     intent.PassUnmanaged,
	meshMeshExitEXIT_PASS_PROTOCOL:      intent.PassProtocol,
	meshMeshExitEXIT_PASS_NO_VIP:        intent.PassNoVIP,
	meshMeshExitEXIT_PASS_PASSTHROUGH:   intent.PassPassthrough,
	meshMeshExitEXIT_REDIRECT:           intent.Redirect,
	meshMeshExitEXIT_REDIRECT_WAYPOINT:  intent.RedirectWaypoint,
	meshMeshExitEXIT_REFUSE_NO_WAYPOINT: intent.RefuseNoWaypoint,
	meshMeshExitEXIT_REFUSE_NO_ENDPOINT: intent.RefuseNoEndpoint,
	meshMeshExitEXIT_REFUSE_NO_PORT:     intent.RefuseNoPort,
	meshMeshExitEXIT_REFUSE_POLICY:      intent.RefusePolicy,
}

var eventNames = map[meshMeshExit]Event{
	meshMeshExitEXIT_REFUSE_SLOT_MISS: RefuseSlotMiss,
	meshMeshExitEXIT_REFUSE_NO_FLOW:   RefuseNoFlow,
	meshMeshExitEXIT_REFUSE_CODEC:     RefuseCodec,
	meshMeshExitEVENT_FLOW_EVICTED:    FlowEvicted,
	meshMeshExitEVENT_FLOW_SHARED:     FlowShared,
	meshMeshExitEVENT_RETRY:           Retry,
	meshMeshExitEVENT_ORIGIN_LOST:     OriginLost,

	meshMeshExitEVENT_HANDOFF_FULL:       HandoffFull,
	meshMeshExitEVENT_HANDOFF_SHORT:      HandoffShort,
	meshMeshExitEVENT_HANDOFF_UNSENT:     HandoffUnsent,
	meshMeshExitEVENT_HANDOFF_RESENT:     HandoffResent,
	meshMeshExitEVENT_HANDOFF_HEADER:     HandoffHeader,
	meshMeshExitEVENT_HANDOFF_EARLY:      HandoffEarly,
	meshMeshExitEVENT_HANDOFF_SILENT:     HandoffSilent,
	meshMeshExitEVENT_HANDOFF_UNWRITTEN:  HandoffUnwritten,
	meshMeshExitEVENT_HANDOFF_UNREACHED:  HandoffUnreached,
	meshMeshExitEVENT_HANDOFF_ANSWERED:   HandoffAnswered,
	meshMeshExitEVENT_HANDOFF_NO_ANSWER:  HandoffNoAnswer,
	meshMeshExitEVENT_HANDOFF_UNKNOWN_ID: HandoffUnknownID,
	meshMeshExitEVENT_HANDOFF_LOST:       HandoffLost,
}

// Exits returns how many connects, and sends of unconnected UDP sockets, ended with each exit since the maps were made.
func (e *Engine) Exits() (map[intent.Exit]uint64, error) { return counters(e, exitNames) }

// Events returns how often each event happened since the maps were made.
func (e *Engine) Events() (map[Event]uint64, error) { return counters(e, eventNames) }

func counters[N ~string](e *Engine, names map[meshMeshExit]N) (map[N]uint64, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, errClosed
	}
	var cpus []meshCpuState
	if err := e.cpus.Lookup(uint32(0), &cpus); err != nil {
		return nil, fmt.Errorf("read counters: %w", err)
	}
	sums := make(map[N]uint64, len(names))
	for index, name := range names {
		sums[name] = 0
		for _, cpu := range cpus {
			sums[name] += cpu.Exits[index]
		}
	}
	return sums, nil
}
