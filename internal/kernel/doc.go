// Package kernel knows what this machine's kernel can do, found by trying and
// not by version, and holds the few operations on namespaces and cgroups that
// everything above needs in the same form.
package kernel
