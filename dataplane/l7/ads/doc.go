// Package ads is the server side of the delta form of Envoy's aggregated discovery
// service (Envoy's xDS protocol, "Incremental xDS") for resources of our own: what
// is published is sent to the Envoy that asks, and Publish returns when Envoy has
// taken it, or with Envoy's own reason why not.
package ads
