// Package scenario declares what a mesh must do: topologies, services, loads
// and what is expected of them, once, for every world. It runs nothing.
package scenario
