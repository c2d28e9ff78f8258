package intent

import (
	"slices"
	"strings"
	"time"
)

// Policy is an authorization policy that a control plane sent. Engines that do
// not enforce it must say so by refusing the Snapshot with UnsupportedError.
type Policy struct {
	Name      string
	Namespace string
	// Workloads are the UIDs of the workloads that the policy names.
	Workloads []string
	// Scope says whom else the policy names.
	Scope PolicyScope
	// Deny is set for a DENY policy, clear for ALLOW.
	Deny bool
	// DryRun is set when the policy is only to be tried: nobody enforces it.
	DryRun bool
	// Groups are alternatives: one that holds for a connection is enough.
	Groups []PolicyGroup
}

// PolicyScope is how a policy chooses the workloads that it names.
type PolicyScope string

// The scopes.
const (
	// ScopeSelector: those that say so themselves (Workload.Policies).
	ScopeSelector PolicyScope = ""
	// ScopeNamespace: all of the policy's namespace.
	ScopeNamespace PolicyScope = "namespace"
	// ScopeMesh: all.
	ScopeMesh PolicyScope = "mesh"
)

// PolicyGroup holds when each of its rules holds.
type PolicyGroup struct{ Rules []PolicyRule }

// PolicyRule holds when one of its matches holds, or when it has none.
type PolicyRule struct{ Matches []PolicyMatch }

// PolicyMatch holds when all of its conditions hold.
type PolicyMatch struct{ Conditions []PolicyCondition }

// PolicyCondition holds when an attribute of the connection is one of the values,
// or with Not when it is none of them.
type PolicyCondition struct {
	// Attribute is "namespaces", "serviceAccounts", "principals", "sourceIps",
	// "destinationIps" or "destinationPorts".
	Attribute string
	Not       bool
	// Values are exact, or begin or end with "*"; "*" is any that is there.
	// Addresses are CIDR prefixes.
	Values []string
}

// Key returns "namespace/name".
func (p *Policy) Key() string { return p.Namespace + "/" + p.Name }

// Names reports whether the policy applies to connections to a workload.
func (p *Policy) Names(w *Workload) bool {
	switch p.Scope {
	case ScopeMesh:
		return true
	case ScopeNamespace:
		return p.Namespace == w.Namespace
	}
	return slices.Contains(w.Policies, p.Key()) || slices.Contains(p.Workloads, w.UID)
}

// String writes a condition for people, for example "principals not a, b*".
func (c PolicyCondition) String() string {
	text := c.Attribute
	if c.Not {
		text += " not"
	}
	return text + " " + strings.Join(c.Values, ", ")
}

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
