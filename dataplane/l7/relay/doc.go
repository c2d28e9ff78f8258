// Package relay stands between a stock Envoy and istiod: it holds what istiod sent,
// changes the few things that Envoy does not know or that a hand-off needs, and serves
// the result. Each kind of change is one entry of changes.yaml, and counted.
//
// istiod is told what Envoy thinks of its configuration: an answer is taken (ACK) or
// refused (NACK) when Envoy has done so, with Envoy's reason. While istiod is away Envoy
// keeps what it has, and one that is started again gets it from here.
package relay
