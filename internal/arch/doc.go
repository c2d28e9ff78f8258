// Package arch holds the walls between the packages of this module, as a test:
// the floors of docs/architecture.md, each with its reason, and the rule that the
// judge's and the mesh's BPF programs share no header.
package arch
