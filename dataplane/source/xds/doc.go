// Package xds is the source that asks an istiod: it holds the resources of Istio's
// workload API (istio.workload.Address, istio.security.Authorization) and makes
// Snapshots of them.
//
// What this build cannot carry out is never taken in silence: a resource that makes
// no sense is refused with its reason (NACK) and the last good one stays; what is
// understood and not acted upon is listed in [Update.Unused].
package xds
