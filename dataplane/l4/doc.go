// Package l4 is engine 1: it decides in the kernel, at connect(), where a
// connection of a managed pod goes. It turns an intent.Snapshot into entries of
// BPF maps, and owns those maps, the programs of bpf/mesh and their links.
//
// It needs Linux 5.14 (SO_NETNS_COOKIE), cgroup v2, and CAP_BPF and CAP_NET_ADMIN.
// BTF of the kernel is not needed. From 5.18 on a refused connection gets
// ECONNREFUSED, before that EPERM; from 5.19 on, with BTF, keeping the asked
// address for getpeername costs a tenth, and works for MPTCP.
package l4

//go:generate go tool bpf2go -tags linux -target bpfel -cc clang-19 -cflags "-O2 -g -Wall -Werror -mcpu=v3" -no-global-types -type mesh_abi -type mesh_exit -type frontend_flag -type frontend_key -type frontend -type slot -type origin_place -type flow -type flows -type late_key -type late -type cpu_state -type mesh_size -type mesh_handoff -type handoff -type destination -type name -type prepared mesh ../../bpf/mesh/mesh.bpf.c -- -I../../bpf/include
