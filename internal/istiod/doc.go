// Package istiod speaks to an istiod: how it is reached and proved to be the right
// one, and the delta form of the aggregated discovery service (ADS). The generated
// forms of Istio's workload API are below it.
//
// What the resources mean is the business of those who ask for them.
package istiod

//go:generate ../../scripts/proto.sh
