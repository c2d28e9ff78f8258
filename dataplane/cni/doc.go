// Package cni is the plugin that a container runtime calls when a pod's network
// is made and taken away (containernetworking/cni, SPEC.md). It stands last in
// the node's chain and asks the node agent, which knows the labels, whether the
// pod is to be managed: the pod's first process runs only afterwards.
//
// Package install, below this one, puts the plugin into the chain.
package cni
