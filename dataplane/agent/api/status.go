package api

import (
	"net/netip"
	"time"
)

// StatusSchema and the others head every answer of the admin API, with Version.
const (
	StatusSchema    = "duomesh/status"
	ServicesSchema  = "duomesh/services"
	EndpointsSchema = "duomesh/endpoints"
	MapsSchema      = "duomesh/maps"
	ExitsSchema     = "duomesh/exits"
	AuditSchema     = "duomesh/audit"
	WorkloadsSchema = "duomesh/workloads"
	PoliciesSchema  = "duomesh/policies"
	ExplainSchema   = "duomesh/explanation"
	// Version is that of all forms.
	Version = 1
)

// Header says what an answer is.
type Header struct {
	Schema  string `json:"schema"`
	Version int    `json:"version"`
}

// Status is the state of one node's dataplane.
type Status struct {
	Header
	Node    string    `json:"node"`
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
	Source  Source    `json:"source"`
	Applied Applied   `json:"applied"`
	// Problem is why the node does not redirect, "" when it does.
	Problem string `json:"problem,omitempty"`
	Pods    []Pod  `json:"pods"`
	// Unknown is the number of enrolments in the kernel that an earlier agent
	// made and that no pod of this node is known for any more.
	Unknown    int         `json:"unknown"`
	Audit      *Audited    `json:"audit,omitempty"`
	Neighbours []Neighbour `json:"neighbours"`
	// Chain is why the CNI plugin is not in the node's chain, so that pods start outside the
	// mesh; "" when it is, or is not to be.
	Chain string `json:"chain,omitempty"`
	// HandOffs says what became of connections that could not be handed to their
	// waypoints, a line for each kind; none when all could.
	HandOffs []string `json:"hand_offs,omitempty"`
}

// Source is where the desired state comes from.
type Source struct {
	// Name is for people, for example "file:/etc/duomesh/intent.yaml".
	Name string `json:"name"`
	// Seen is the version of the last update that was applied or refused, as
	// the source names it; "" before the first.
	Seen string `json:"seen,omitempty"`
	// Error is why the last update was refused; the state before it goes on.
	Error string `json:"error,omitempty"`
	// Errors is the number of updates that were refused since the start.
	Errors uint64 `json:"errors"`
	// Retries is how often an update that the kernel had refused in the middle was
	// tried again.
	Retries uint64 `json:"retries,omitempty"`
	// Lost is why the source cannot be asked, until it answers again; Losses counts how
	// often it could not be, or not any more. What was applied goes on.
	Lost   string `json:"lost,omitempty"`
	Losses uint64 `json:"losses"`
	// Busy is set while an update is being applied or waits for that.
	Busy bool `json:"busy"`
	// Unused lists what the applied update asks for and this build does not do, a
	// line each.
	Unused []string `json:"unused,omitempty"`
	// Unenforced are the policies that were received. None is enforced.
	Unenforced []Unenforced `json:"unenforced,omitempty"`
	// UnenforcedPolicies is the number of those that are to be enforced,
	// UnenforcedWorkloads of the workloads that they name, and RefusedWorkloads of
	// those among them to which connections are refused for that reason.
	UnenforcedPolicies  int `json:"unenforced_policies"`
	UnenforcedWorkloads int `json:"unenforced_workloads"`
	RefusedWorkloads    int `json:"refused_workloads"`
}

// Unenforced is a policy that was received and is not enforced.
type Unenforced struct {
	// Policy is "namespace/name".
	Policy string `json:"policy"`
	// Origin says what istiod has made it of, where that is no AuthorizationPolicy.
	Origin string `json:"origin,omitempty"`
	// DryRun is set when it is not to be enforced.
	DryRun bool `json:"dry_run,omitempty"`
	// Workloads is how many workloads it names, Some are the names of a few.
	Workloads int      `json:"workloads"`
	Some      []string `json:"some,omitempty"`
}

// Applied is what the kernel has.
type Applied struct {
	// Generation counts the updates that were applied since the start.
	Generation uint64 `json:"generation"`
	// Inherited is set while Generation is 0 and the kernel has services or enrolments
	// of an earlier agent.
	Inherited bool `json:"inherited,omitempty"`
	// Version is the source's name for it.
	Version string    `json:"version,omitempty"`
	At      time.Time `json:"at,omitzero"`
	// Shown is since when connections that begin are decided by it. At is later:
	// none is being decided any more that began before.
	Shown    time.Time `json:"shown,omitzero"`
	Services int       `json:"services"`
	// Workloads is the number of known pods and other workloads of the mesh.
	Workloads int `json:"workloads"`
	// Conflicts are the addresses and ports that several services claim.
	Conflicts []Conflict `json:"conflicts,omitempty"`
}

// Conflict is a frontend that several services claim; the first has it.
type Conflict struct {
	Frontend string   `json:"frontend"`
	Services []string `json:"services"`
}

// Pod is an enrolled pod of the node.
type Pod struct {
	// Name is "namespace/name".
	Name string `json:"name"`
	// UID is Kubernetes' for it, where its enroller knew it. Sandbox is the container
	// runtime's name for its network namespace, of one that a CNI plugin brought before
	// its first process ran.
	UID     string `json:"uid,omitempty"`
	Sandbox string `json:"sandbox,omitempty"`
	// Cgroup is its directory, as the enroller named it.
	Cgroup string `json:"cgroup,omitempty"`
	// Netns is the inode of its network namespace, as in "net:[4026532281]".
	Netns uint64 `json:"netns,omitempty"`
	// Held is set while the agent has that open, so that the number is no other's.
	Held bool `json:"held,omitempty"`
	// Waypoint is the hand-off port of a waypoint's pod, which is served and not
	// managed; 0 for others.
	Waypoint uint16 `json:"waypoint,omitempty"`
	// Older is how many connections the pod had made, and not closed, before it was
	// enrolled: they are not redirected. Ended is how many were ended for that.
	Older int `json:"older,omitempty"`
	Ended int `json:"ended,omitempty"`
	// Watched is set when the agent sees the pod's end by itself. It does not
	// for a pod without processes that an earlier agent enrolled.
	Watched bool `json:"watched"`
}

// Audited is what the last comparison of kernel and intent has found.
type Audited struct {
	At time.Time `json:"at"`
	// Differences is what the kernel has otherwise and could not be repaired.
	Differences int `json:"differences"`
	// Repaired is how many were, since the agent started, and when the last ones.
	Repaired   uint64    `json:"repaired,omitempty"`
	RepairedAt time.Time `json:"repairedAt,omitzero"`
	// Error is why the comparison or the repair could not be made.
	Error string `json:"error,omitempty"`
}

// Neighbour is a foreign program on the path of connections.
type Neighbour struct {
	Hook    string `json:"hook"`
	Program string `json:"program"`
	ID      uint32 `json:"id"`
	// Before is set when it runs before the engine's program.
	Before bool `json:"before,omitempty"`
	// Pod is the pod whose cgroup has it; "" for the node's, or one above.
	Pod string `json:"pod,omitempty"`
}

// Services is the list of services that were applied.
type Services struct {
	Header
	Services []Service `json:"services"`
}

// Service is one service.
type Service struct {
	// Name is "namespace/name".
	Name      string       `json:"name"`
	Hostname  string       `json:"hostname,omitempty"`
	Addresses []netip.Addr `json:"addresses"`
	Ports     []Port       `json:"ports"`
	Endpoints int          `json:"endpoints"`
	Waypoint  string       `json:"waypoint,omitempty"`
}

// Port is one port of a service, host byte order.
type Port struct {
	Port     uint16 `json:"port"`
	Protocol string `json:"protocol"`
	// Target is 0 where each endpoint has its own.
	Target uint16 `json:"target"`
}

// Endpoints is what connections from this node may be sent to.
type Endpoints struct {
	Header
	Frontends []Frontend `json:"frontends"`
}

// Frontend is what a client dials, and where that leads from this node.
type Frontend struct {
	Service string `json:"service"`
	// Frontend is "address:port/protocol".
	Frontend string `json:"frontend"`
	// Exit is how such a connection of an enrolled pod ends.
	Exit    string   `json:"exit"`
	Targets []Target `json:"targets"`
}

// Target is one possible destination.
type Target struct {
	Address  netip.AddrPort `json:"address"`
	Workload string         `json:"workload"`
	Weight   uint32         `json:"weight"`
	// Share is the probability, from 0 to 1.
	Share float64 `json:"share"`
}

// Maps is how full the kernel's maps are.
type Maps struct {
	Header
	Maps []Map `json:"maps"`
}

// Map is one map of the kernel. Used and Limit are 0 for a map without a limit.
type Map struct {
	Name  string `json:"name"`
	Used  uint32 `json:"used"`
	Limit uint32 `json:"limit"`
	Bytes uint64 `json:"bytes"`
}

// Exits is how connections ended, since the maps were made.
type Exits struct {
	Header
	Exits  map[string]uint64 `json:"exits"`
	Events map[string]uint64 `json:"events"`
}

// Audit is a comparison of the kernel's maps with what was applied.
type Audit struct {
	Header
	Node        string       `json:"node"`
	Differences []Difference `json:"differences"`
}

// Difference is one entry that is not as it was written.
type Difference struct {
	Map   string `json:"map"`
	Entry string `json:"entry"`
	Want  string `json:"want,omitempty"`
	Have  string `json:"have,omitempty"`
}

// Explanation says where a connection goes, and why.
type Explanation struct {
	Header
	Node     string         `json:"node"`
	From     string         `json:"from"`
	To       netip.AddrPort `json:"to"`
	Protocol string         `json:"protocol"`
	Managed  bool           `json:"managed"`
	// Exit is the name under which the kernel counts such a connection; "" where it
	// is decided by what an earlier agent left.
	Exit    string   `json:"exit"`
	Service string   `json:"service,omitempty"`
	Targets []Target `json:"targets"`
	// Count is how many connections of the node ended so, since the maps were
	// made.
	Count uint64 `json:"count"`
	// Differences are those of the audit that concern this answer.
	Differences []Difference `json:"differences"`
	// Elsewhere is the number of differences that do not.
	Elsewhere int `json:"elsewhere"`
	// Why is the answer in words, one sentence each.
	Why []string `json:"why"`
}
