// Package bench measures what a service mesh adds to a request. It starts load
// clients and servers in simulated pods, one fresh pair per trial, interleaves
// the variants in shuffled blocks, records every request, and lets package
// result say what follows.
//
// Three passes run over the same worlds: timed (no probe, no BPF statistics),
// judged (an independent observer says where connections really went), counted
// (BPF statistics say how often mesh programs ran).
package bench
