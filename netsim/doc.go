// Package netsim simulates a cluster on this machine: each pod is a network
// namespace, a cgroup v2 directory and child processes born inside both; each
// node is a network namespace that routes, a cgroup subtree, and a mesh engine
// of its own. It is a scenario.World.
//
// Links are routed point-to-point veths, no bridge: pod eth0 to its node, and
// one pair between every two nodes. Neighbours are permanent, so no ARP and no
// duplicate address detection disturbs a measurement. Namespaces have no name:
// they are held by descriptor in the process that opened the cluster and vanish
// with it. What a killed process leaves (cgroups, mounts, its run directory, its
// children) is removed by Sweep, which every Open runs.
package netsim
