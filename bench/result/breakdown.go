package result

import "github.com/duomesh/duomesh/bench/plan"

// Breakdown is where the time of one request goes, from the kernel's own timestamps.
// The watch costs time itself, so P50 is not that of the timed pass.
type Breakdown struct {
	plan.Cell
	// Note is what a reader must know of the variant.
	Note string `json:"note,omitempty"`
	// Reason is set when nothing was followed, and says why.
	Reason string `json:"reason,omitempty"`
	// Requests is how many were followed, P50 how long the middle one took, µs.
	Requests int     `json:"requests"`
	P50      float64 `json:"p50_us,omitempty"`
	// Parts add up to the mean time of a request.
	Parts []Part `json:"parts,omitempty"`
	// Path is what the processes did with a request, in the order of the middle
	// request's time.
	Path []Step `json:"path,omitempty"`
	// Work is what each process did for a request.
	Work []Work `json:"work,omitempty"`
	// Hops is how often a process in user space took a request and gave it on, on the
	// way to the server; with new connections, how many processes did.
	Hops int `json:"user_space_hops"`
	// Packets are those of a request on the interfaces of each pod.
	Packets []Packets `json:"packets,omitempty"`
}

// Part is time that went to one thing.
type Part struct {
	// Role is the process, empty for nobody's.
	Role string `json:"role,omitempty"`
	// What is PartUser, PartKernel, PartQueue or PartIdle.
	What   string  `json:"what"`
	Micros float64 `json:"us"`
}

// What time goes to.
const (
	// PartUser: the process computes.
	PartUser = "user space"
	// PartKernel: the kernel works in a call of the process, packets that this sets
	// under way included, up to the next process that must run.
	PartKernel = "kernel"
	// PartQueue: somebody could run, and waits for a processor.
	PartQueue = "waiting for a processor"
	// PartIdle: nobody could run: interrupts, and processors that wake up.
	PartIdle = "interrupts and idle processors"
)

// Step is one thing that a process did, at the middle of when it did it, microseconds
// after the request began.
type Step struct {
	Role string  `json:"role"`
	What string  `json:"what"`
	At   float64 `json:"at_us"`
	// Woken is when the thread was told to run before it read, Ran when it did; 0
	// where it ran already.
	Woken float64 `json:"woken_us,omitempty"`
	Ran   float64 `json:"ran_us,omitempty"`
	// Seen is the share of requests that had the step.
	Seen float64 `json:"seen"`
}

// Work is what a process did for one request.
type Work struct {
	Role string `json:"role"`
	// Calls are system calls, Switches how often a thread of it gave a processor up.
	Calls    float64 `json:"system_calls"`
	Switches float64 `json:"context_switches"`
	// Reads and Writes moved bytes through TCP sockets.
	Reads        float64 `json:"reads"`
	Writes       float64 `json:"writes"`
	BytesRead    float64 `json:"bytes_read"`
	BytesWritten float64 `json:"bytes_written"`
}

// Packets are those of a request at one pod: on its loopback, and on its link in both
// directions.
type Packets struct {
	Pod      string  `json:"pod"`
	Loopback float64 `json:"loopback"`
	Link     float64 `json:"link"`
}

// Connects is how connections of a variant came to stand, from the judged pass. Times
// are microseconds after the application asked, of the middle connection.
type Connects struct {
	plan.Cell
	// Note is what a reader must know of the variant.
	Note        string `json:"note,omitempty"`
	Connections int64  `json:"connections"`
	// Decided: the kernel begins to connect, to wherever that now is.
	Decided float64 `json:"decided_us"`
	// OnWire: the SYN is on the pod's link; 0 where most never are.
	OnWire float64 `json:"on_wire_us,omitempty"`
	// Established: the application's socket is.
	Established float64 `json:"established_us"`
	// Handshakes is how many TLS connections were made for them, between the nodes.
	Handshakes int64 `json:"tls_handshakes"`
}

// Breakdown returns that of a cell, nil when there is none.
func (s Summary) Breakdown(c plan.Cell) *Breakdown {
	for i := range s.Breakdowns {
		if s.Breakdowns[i].Cell == c {
			return &s.Breakdowns[i]
		}
	}
	return nil
}
