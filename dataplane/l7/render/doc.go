// Package render is the control plane that needs no istiod: it turns a Snapshot into
// the listeners, routes, clusters and endpoints of one waypoint's Envoy, in the shape
// in which istiod would send them for the same rules. It knows weights, a header match
// and a request timeout, and refuses by name what else a Snapshot asks for.
package render
