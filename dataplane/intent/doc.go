// Package intent is the desired state of a mesh as plain values: what services,
// workloads, waypoints and policies exist (Snapshot), whether such a state makes
// sense (Validate), and where a connection must go in it (Decide).
//
// It does no I/O and knows no kernel. Decide is the reference model of the
// engine's decision table: it is written from the table in docs/engine.md,
// not from the BPF program, so that the two can be held against each other.
package intent
