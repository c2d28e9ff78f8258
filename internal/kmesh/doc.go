// Package kmesh finds what Kmesh has on a node: processes, the CNI entry, pins,
// programs, mounts and files, and says in which order to take it away. It changes
// nothing.
package kmesh
