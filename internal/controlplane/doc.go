// Package controlplane runs a real control plane as processes of this machine: etcd,
// kube-apiserver and istiod, with certificates of its own and real RBAC. There is no
// kubelet and no kube-controller-manager: what simulated pods need of them is played
// here. A Pod that the simulation knows gets its status and is let go when it is
// deleted, Services get EndpointSlices, namespaces their default ServiceAccount, and
// tokens are asked for and renewed.
//
// The package is handed where its processes are born and how they are reached, so
// that they may live in a network namespace of their own.
package controlplane
