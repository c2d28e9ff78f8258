package intent

import "net/netip"

// Snapshot is the whole desired state of a mesh at one moment.
//
// A Snapshot and everything it points to is immutable once it has been handed
// to an engine. A new Snapshot shares the values that did not change by
// pointer: an engine compares pointers and touches only what differs.
type Snapshot struct {
	Services  []*Service
	Workloads []*Workload
	Policies  []*Policy
	Routes    []*Route
}

// Protocol is a transport protocol by its IANA number.
type Protocol uint8

// The transports that a service port can be declared for.
const (
	TCP Protocol = 6
	UDP Protocol = 17
)

// String returns "TCP", "UDP" or "protocol N".
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	}
	return "protocol " + itoa(uint64(p))
}

// Service is a name with virtual addresses, ports and the workloads behind it.
type Service struct {
	Name      string
	Namespace string
	// Hostname is the fully qualified name, for example
	// "fortio.default.svc.cluster.local". Empty when the source has none.
	Hostname string
	// Addresses are the virtual addresses (VIPs). A headless service has none.
	Addresses []netip.Addr
	Ports     []Port
	Endpoints []Endpoint
	// Waypoint handles the TCP connections of this service; nil means none.
	Waypoint *Waypoint
	Balance  Balance
	// Canonical settles the claim of two services on one address and port:
	// the canonical one wins, then the first by namespace and name.
	Canonical bool
}

// Key returns "namespace/name", the identity of a service in a Snapshot.
func (s *Service) Key() string { return s.Namespace + "/" + s.Name }

// Port is one declared port of a service, in host byte order.
type Port struct {
	// Port is what clients dial on the virtual address.
	Port uint16
	// Target is the port on the workload. Zero means that every endpoint names
	// its own (a named port): an endpoint that does not is left out.
	Target uint16
	// Name is the port's name in the service, for people. May be empty.
	Name string
	// Protocol is TCP or UDP.
	Protocol Protocol
}

// Endpoint is a workload's part in one service.
type Endpoint struct {
	Workload *Workload
	// Ports maps a service port to this workload's own target port, both in
	// host byte order. It wins over Port.Target.
	Ports map[uint16]uint16
}

// Workload is a pod, or anything else that has addresses of its own.
type Workload struct {
	// UID is unique in a Snapshot, for example
	// "Kubernetes//Pod/default/fortio-v1".
	UID       string
	Name      string
	Namespace string
	// Addresses may hold several of each family. An engine uses the first of
	// the family that it needs, or all of them where Hostname is set.
	Addresses []netip.Addr
	// Hostname is the name that Addresses are the answer for, of a workload that
	// is known by name only: its share is spread evenly over all of them.
	Hostname string
	// Weight is the workload's share among the endpoints of a service
	// (the workload API's capacity). Zero means never chosen.
	Weight uint32
	// Node is the name of the node that the workload runs on.
	Node string
	// Network is the network that Addresses can be reached on; endpoints on
	// another network are left out of the kernel's choice.
	Network string
	// Cluster is the ID of the cluster that the workload runs in.
	Cluster  string
	Locality Locality
	// Unhealthy is set when the control plane reports the workload not ready.
	Unhealthy bool
	// HostNetwork is set when Addresses are the node's own.
	HostNetwork bool
	// Waypoint handles the TCP connections to the workload's own addresses.
	Waypoint *Waypoint
	// Gateway is set for a waypoint or gateway: it is never managed, and
	// enrolling it is refused.
	Gateway bool
	// Policies are the Keys of the policies that select this workload by its
	// labels. Those of its namespace and of the whole mesh name it as well; see
	// Policy.Names.
	Policies []string
	// Unprotected is set when policies name this workload, nobody enforces them,
	// and TCP connections to it are refused for that reason.
	Unprotected bool
}

// Locality says where a workload or node is, from wide to narrow.
type Locality struct {
	Region  string
	Zone    string
	Subzone string
}

// Waypoint says how connections are brought to an L7 proxy.
type Waypoint struct {
	// Name is for people, for example "default/waypoint".
	Name string
	// Endpoints are the replicas.
	Endpoints []Endpoint
	// Balance says which replicas a caller is sent to. One that is not healthy
	// never is, and Passthrough has no meaning.
	Balance Balance
	// Codec is the form of the hand-off.
	Codec Codec
	// Port is the hand-off port on each replica, in host byte order.
	Port uint16
}

// Codec is how a waypoint learns a connection's original destination.
type Codec string

// The codecs; see Port.
const (
	OriginalDst Codec = "original-dst"
	ProxyV2     Codec = "proxy-v2"
	KmeshTLV    Codec = "kmesh-tlv"
)

// Port is the hand-off port of a codec, 0 when it is not known.
func (c Codec) Port() uint16 {
	switch c {
	case OriginalDst:
		return 15029
	case ProxyV2:
		return 15039
	case KmeshTLV:
		return 15019
	}
	return 0
}

// Balance says which endpoints of a service may be chosen from a given place.
type Balance struct {
	Mode Mode
	// Prefer lists the scopes that are compared, the most important first.
	// Used by Failover and Strict.
	Prefer []Scope
	// AllowUnhealthy keeps endpoints that are not ready
	// (publishNotReadyAddresses).
	AllowUnhealthy bool
}

// Mode is the locality policy of a service.
type Mode string

// The modes of the workload API's LoadBalancing message.
const (
	// Any chooses among all endpoints.
	Any Mode = ""
	// Strict chooses only endpoints that match the caller in all of Prefer.
	Strict Mode = "strict"
	// Failover chooses the endpoints that match the longest prefix of Prefer.
	Failover Mode = "failover"
	// Passthrough leaves connections to the address that was asked for.
	Passthrough Mode = "passthrough"
)

// Scope is one level at which the caller's place and an endpoint's are compared.
type Scope string

// The scopes of the workload API's LoadBalancing message.
const (
	ScopeNetwork Scope = "network"
	ScopeRegion  Scope = "region"
	ScopeZone    Scope = "zone"
	ScopeSubzone Scope = "subzone"
	ScopeNode    Scope = "node"
	ScopeCluster Scope = "cluster"
)

// Place is where a caller stands: the node whose engine decides.
type Place struct {
	Node     string
	Network  string
	Cluster  string
	Locality Locality
}
