// Package envoy owns one Envoy process: its bootstrap, its start, what it says, its
// restart after a crash, and its end. Envoy is stock: nothing in it is ours.
package envoy
