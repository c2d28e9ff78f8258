// Package ambient is the baseline of the comparison: what a pod of Istio's
// ambient mesh goes through. It drives a real ztunnel without Kubernetes, one per
// simulated node: the certificate authority, the workloads, the pods that are
// handed over by descriptor (ZDS), the redirect rules inside the pods, readiness,
// counters. Package standin is a node proxy in Go for machines without a
// ztunnel, under the same driver.
//
// Nothing here is product code, and no ztunnel is part of it: the caller names a
// binary.
package ambient
