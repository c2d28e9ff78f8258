// Package install puts the CNI plugin into a node's chain, keeps it there while
// others rewrite the chain, and takes it out again so that the node is as it was
// found: what it adds to a file is cut out again, byte for byte.
package install
