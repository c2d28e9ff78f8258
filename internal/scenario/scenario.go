package scenario

import (
	"fmt"
	"time"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// Scenario is one declared run: a topology, the first objects, and phases that
// follow each other. It is a value; nothing in it changes while it runs.
type Scenario struct {
	// Name is subject/variant/size, for example "clusterip/tcp/90-10".
	Name string
	// Summary is one sentence for people.
	Summary  string
	Topology Topology
	Objects  Objects
	Phases   []Phase
}

// Topology is the nodes and pods of a world.
type Topology struct {
	Nodes []Node
	Mesh  Mesh
	// Agents is set when each node must have an agent that can be killed and
	// started while connections are made.
	Agents bool
}

// Mesh is what carries service addresses to pods.
type Mesh string

// The meshes that a world may be asked for.
const (
	// Duomesh is the engine under test.
	Duomesh Mesh = "duomesh"
	// DNAT is rules in the node, shaped as kube-proxy's.
	DNAT Mesh = "dnat"
	// NoMesh leaves service addresses to nobody.
	NoMesh Mesh = "none"
)

// Node is one machine of the cluster.
type Node struct {
	Name string
	// Place is where it stands, with all its pods.
	Place Place
	Pods  []Pod
}

// Place is where a node stands; what is empty is the same for all that leave it so.
type Place struct{ Region, Zone, Subzone, Network, Cluster string }

// Pod is one pod of a node.
type Pod struct {
	Name string
	// Serve are the TCP ports that the pod's server listens on, for IPv4 and
	// IPv6, in host byte order. None means that the pod only asks.
	Serve []uint16
	// ServeFirst are TCP ports on which the server speaks first.
	ServeFirst []uint16 `yaml:"serveFirst"`
	// ServeUDP are its UDP ports.
	ServeUDP []uint16 `yaml:"serveUDP"`
	// Ports are the numbers of its ports that have a name, for Port.TargetName.
	Ports map[string]uint16
	// Family says which addresses the pod has; empty means Dual.
	Family Family
	// Addresses is how many it has of each family; 0 means 1. See AddressOf.
	Addresses int
	// Managed pods are enrolled in the mesh when the world opens.
	Managed bool
	// Waypoint pods are replicas of waypoints: they run an L7 proxy and nothing else,
	// and are never managed.
	Waypoint bool
}

// Objects is the declared state of the mesh, by pod name: a world gives the
// addresses.
type Objects struct {
	Services []Service
	// Waypoints are those of several replicas, or of none. A pod that is a waypoint is
	// one by its own name, too.
	Waypoints []Waypoint
	// Unready are the pods that are not ready: no service chooses them that does not
	// publish them all the same.
	Unready []string
}

// Waypoint is an L7 proxy that connections pass.
type Waypoint struct {
	Name string
	// Pods are its replicas.
	Pods []string
	// Codec is how connections are handed to it: original-dst, also when empty, or
	// proxy-v2.
	Codec string
}

// Service is a virtual address in front of pods.
type Service struct {
	Name      string
	Family    Family
	Ports     []Port
	Endpoints []Endpoint
	// Headless services have no address: clients ask for their pods'.
	Headless bool
	// Balance says which endpoints a caller is sent to by where both stand.
	Balance Balance
	// PublishNotReady keeps the pods that are not ready.
	PublishNotReady bool `yaml:"publishNotReady"`
	// Waypoint names the waypoint that the service's TCP connections pass; empty means
	// none.
	Waypoint string
	// Routes are its HTTP rules, which its waypoint carries out: the first whose match
	// holds. Without one, requests go to the service's own endpoints.
	Routes []Route
}

// Balance is a policy of locality: a mode of intent, and the scopes in which the
// caller's place and an endpoint's are compared, the most important first.
type Balance struct {
	Mode   intent.Mode
	Prefer []intent.Scope
}

// Route is one HTTP rule of a service.
type Route struct {
	// Header and Exact select requests by one header; both empty select all.
	Header, Exact string
	// Backends share the requests by weight.
	Backends []Backend
	// Timeout bounds a request; 0 means no bound.
	Timeout time.Duration
}

// Backend is a service that a Route sends requests to.
type Backend struct {
	Service string
	Port    uint16
	Weight  uint32
}

// Family says which address families something has.
type Family string

// The families. Mapped is an IPv4 address dialled from an IPv6 socket.
const (
	IPv4   Family = "IPv4"
	IPv6   Family = "IPv6"
	Dual   Family = "dual"
	Mapped Family = "v4-mapped"
)

// Port is a service port and the pods' own port behind it, host byte order.
type Port struct {
	Port   uint16
	Target uint16
	// TargetName is set in place of Target where each pod has a port of this name, see
	// Pod.Ports. A pod that has none is left out.
	TargetName string `yaml:"targetName"`
	// Protocol is TCP where it is empty.
	Protocol Protocol
	// Name says what is spoken on it, as in Kubernetes: http or http-…, http2, grpc;
	// anything else is TCP to a waypoint.
	Name string
}

// Protocol is a transport protocol.
type Protocol string

// The protocols. An empty one means TCP.
const (
	TCP Protocol = "TCP"
	UDP Protocol = "UDP"
)

// Endpoint is a pod behind a service.
type Endpoint struct {
	Pod string
	// Weight is the pod's share; 0 means never.
	Weight uint32
	// Ports are the pod's own targets by service port, which win over those of the
	// service.
	Ports map[uint16]uint16
	// ByName: the pod is known by a name, whose answer are all its addresses. They
	// share its weight.
	ByName bool `yaml:"byName"`
}

// Phase is loads that run at the same time, each with what is expected.
type Phase struct {
	// Before is done, and confirmed, before the first connection.
	Before []Action
	Loads  []Load
	// During is done once when half of the connections of every load have been made.
	During []Action
}

// Load is connections from pods to one address.
type Load struct {
	// From are client pods; the connections are spread evenly over them.
	From []string
	To   Target
	// Connections is the number over all client pods. With UDP, it is that of
	// sockets.
	Connections int
	// Datagrams is how many each UDP socket sends, one after the other, each after
	// the last one's answer; 0 means 1.
	Datagrams int
	// Unconnected UDP sockets name the address in each send.
	Unconnected bool
	// Requests, where above 0, makes each connection one of HTTP with so many requests,
	// which are never made on another.
	Requests int
	// Headers are sent with each request. Close closes the connection behind its one
	// request.
	Headers map[string]string
	Close   bool
	// ServerFirst waits for the server to speak first, for ports of Pod.ServeFirst.
	ServerFirst bool `yaml:"serverFirst"`
	// Workers is the number of parallel connectors in each client pod; 0 means 4.
	Workers int
	// PerSecond bounds the rate of the load over all client pods; 0 means as fast as
	// possible.
	PerSecond float64 `yaml:"perSecond"`
	Want      Want
	// Then is expected of connections asked for after During has returned;
	// nil means that During changes nothing for this load. Connections asked
	// for while During runs may follow either.
	Then *Want
	// Interrupted: what the application does while During runs may fail, and is counted.
	// Needs Then.
	Interrupted bool
}

// Target is what a client asks for: a port of a service, or of a pod.
type Target struct {
	Service string
	// Pod is a name, or one of AddressOf.
	Pod    string
	Port   uint16
	Family Family
	// Protocol is TCP where it is empty.
	Protocol Protocol
}

// Want is what must become of every connection of a load, written by hand.
type Want struct {
	Outcome Outcome
	// Via says how connections come to the server, when they do.
	Via Via
	// Split gives the share of each server pod, reached at its first address of the
	// family; at another one by a name of AddressOf. The shares sum to 1.
	Split map[string]float64
	// Unweighed: the pods of Split may serve, in any shares but 0 and 1, which
	// stay exact. It is for requests that no weight shares: a waypoint then gives
	// each to the endpoint with fewer outstanding, so shares follow the load.
	Unweighed bool
	// AnyPort: the server may see the client's address with another port. A node that
	// tracks connections gives it one where the pair of both ends is still taken by an
	// earlier connection that it has rewritten.
	AnyPort bool `yaml:"anyPort"`
	// Port is the port on which the server must have been reached; Ports are those of
	// pods where another one must.
	Port  uint16
	Ports map[string]uint16
	// Waypoint is the one that connections pass, with ViaWaypoint.
	Waypoint string
	// Replicas are pods of it that each must have taken some of the connections, which
	// may come to any.
	Replicas []string
}

// Outcome is what the application sees.
type Outcome string

// The outcomes.
const (
	// Connected: the connection is made, and data goes both ways.
	Connected Outcome = "connected"
	// RefusedByMesh: ECONNREFUSED from connect(), or from sendto() on an
	// unconnected UDP socket, and no packet anywhere.
	RefusedByMesh Outcome = "refused-by-mesh"
	// RefusedByPeer: the first packet went to the asked address and was refused
	// there: what happens to a service address that nobody redirects. A UDP
	// socket learns it where it waits for the answer, and only a connected one
	// does.
	RefusedByPeer Outcome = "refused-by-peer"
	// interrupted: refused, cut, or in time: only Load.Interrupted allows it.
	interrupted Outcome = "interrupted"
)

// Interrupted is what may become of a connection while what it passes is gone.
func Interrupted() Want { return Want{Outcome: interrupted} }

// MayFail reports whether any outcome is right.
func (w Want) MayFail() bool { return w.Outcome == interrupted }

// HandOffPort is the port of a waypoint that connections are handed to, ProxyPort where
// they are by a PROXY header.
const (
	HandOffPort = 15029
	ProxyPort   = 15039
)

// The codecs of a Waypoint.
const (
	OriginalDst = "original-dst"
	ProxyV2     = "proxy-v2"
)

// Via is the way from the asked address to the server.
type Via string

// The ways. Proxy is for worlds that have one.
const (
	// ViaNone: asked address, socket peer and packets are all the same.
	ViaNone Via = "none"
	// ViaSocket: the socket's peer is the server already; no packet carries
	// the asked address.
	ViaSocket Via = "socket"
	// ViaDNAT: the socket's peer is the asked address, packets are rewritten
	// on the way.
	ViaDNAT Via = "dnat"
	// ViaProxy: a proxy next to the client takes the connection.
	ViaProxy Via = "proxy"
	// ViaWaypoint: the socket's peer is a waypoint's hand-off port, and the server's
	// client is the waypoint.
	ViaWaypoint Via = "waypoint"
)

// String returns "service:port/family" or "pod:port/family", with "/UDP" behind
// it where that is the protocol.
func (t Target) String() string {
	name := fmt.Sprintf("%s:%d/%s", t.Service+t.Pod, t.Port, t.Family)
	if t.Protocol == UDP {
		name += "/UDP"
	}
	return name
}
