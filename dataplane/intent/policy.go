package intent

import "time"

// Policy is an authorization policy that a control plane sent. Engines that do
// not enforce it must say so by refusing the Snapshot with UnsupportedError.
type Policy struct {
	Name      string
	Namespace string
	// Workloads are the UIDs of the workloads that the policy names.
	Workloads []string
	// Deny is set for a DENY policy, clear for ALLOW.
	Deny bool
}

// Key returns "namespace/name".
func (p *Policy) Key() string { return p.Namespace + "/" + p.Name }

// Route is one HTTP rule of a service, for the embedded control plane.
type Route struct {
	// Service is the Key of the service that the route belongs to.
	Service string
	Match   HeaderMatch
	// Backends share the requests by Weight; at least one.
	Backends []Backend
	// Timeout bounds one request; zero means none.
	Timeout time.Duration
}

// HeaderMatch selects requests by one header; the zero value selects all.
type HeaderMatch struct {
	Name  string
	Exact string
}

// Backend is one target of a Route.
type Backend struct {
	// Service is the Key of the service that requests go to.
	Service string
	// Port is the service port, in host byte order.
	Port   uint16
	Weight uint32
}

// UnsupportedError says that a Snapshot holds something that this build does not
// carry out. Nothing is accepted and ignored.
type UnsupportedError struct {
	// Resource names the object, for example "service default/fortio".
	Resource string
	// Field names the part of it, for example "waypoint".
	Field string
}

// Error implements error.
func (u UnsupportedError) Error() string {
	return u.Resource + ": " + u.Field + " is not carried out by this build"
}
