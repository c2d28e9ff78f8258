package api

import "net/netip"

// Workloads is the list of workloads that were applied.
type Workloads struct {
	Header
	Workloads []Workload `json:"workloads"`
}

// Workload is a pod, or anything else that has addresses of its own.
type Workload struct {
	UID string `json:"uid"`
	// Name is "namespace/name".
	Name string `json:"name"`
	// Hostname is the name that Addresses are the answer for, if any.
	Hostname  string       `json:"hostname,omitempty"`
	Addresses []netip.Addr `json:"addresses"`
	Node      string       `json:"node,omitempty"`
	Network   string       `json:"network,omitempty"`
	Cluster   string       `json:"cluster,omitempty"`
	Weight    uint32       `json:"weight"`
	Healthy   bool         `json:"healthy"`
	Waypoint  string       `json:"waypoint,omitempty"`
	// Gateway is set for a waypoint.
	Gateway bool `json:"gateway,omitempty"`
	// Unenforced are the policies that name it; none is enforced.
	Unenforced []string `json:"unenforced,omitempty"`
	// Refused is set when TCP connections to it are refused for that reason.
	Refused bool `json:"refused,omitempty"`
}

// Policies is the list of policies that were received. None is enforced.
type Policies struct {
	Header
	Policies []Policy `json:"policies"`
}

// Policy is one authorization policy.
type Policy struct {
	// Name is "namespace/name".
	Name string `json:"name"`
	// Origin says what istiod has made it of, where that is no AuthorizationPolicy.
	Origin string `json:"origin,omitempty"`
	// Action is ALLOW or DENY.
	Action string `json:"action"`
	// Scope is "mesh", "namespace" or "workload".
	Scope  string `json:"scope"`
	DryRun bool   `json:"dry_run,omitempty"`
	// Enforced is false: this build enforces none.
	Enforced bool `json:"enforced"`
	// Workloads are those that it names, each "namespace/name".
	Workloads []string `json:"workloads"`
	// Rules are alternatives, in words.
	Rules []string `json:"rules"`
}
