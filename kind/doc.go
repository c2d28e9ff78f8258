// Package kind is the world of scenarios on a kind cluster with an istiod and the
// agents of duomesh: pods are Kubernetes', addresses the API server's, and what is
// declared goes there. Its nodes must run on this machine: load is born in the
// pods' own namespaces and cgroups, and the judge watches there.
package kind
