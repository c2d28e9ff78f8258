// Package kubeproxy writes the iptables rules that kube-proxy would write for
// the same services, in the same chains, so that a benchmark compares with what
// clusters really run: KUBE-SERVICES finds the service by address and port,
// KUBE-SVC-x chooses an endpoint with the statistic match, KUBE-SEP-x rewrites
// the destination.
//
// Like kube-proxy it writes whole tables by iptables-restore --noflush; one
// process start per rule would take minutes for a thousand services. Weights,
// which kube-proxy does not have, become unequal probabilities in the same
// chains.
package kubeproxy
