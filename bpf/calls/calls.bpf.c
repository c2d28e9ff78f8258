// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Counts the system calls of some cgroups as they return. One that only said "not
 * yet" (EAGAIN) is left out: how often a program asks too early is a matter of
 * timing and would hide what is counted.
 */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>

#define EAGAIN 11

struct call_key {
	__u64 cgroup;
	__s64 number; /* of the system call, by architecture */
};

/* cgroups: those that are counted, by id. Written by user space. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u64);
	__type(value, __u8);
} cgroups SEC(".maps");

/* calls: inserted here, never deleted. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__type(key, struct call_key);
	__type(value, __u64);
} calls SEC(".maps");

char LICENSE[] SEC("license") = "Dual BSD/GPL";

SEC("tracepoint/raw_syscalls/sys_exit")
int on_exit(struct trace_event_raw_sys_exit *ctx)
{
	struct call_key key = {
		.cgroup = bpf_get_current_cgroup_id(),
		.number = ctx->id,
	};
	const __u64 zero = 0;
	__u64 *n;

	if (ctx->ret == -EAGAIN || !bpf_map_lookup_elem(&cgroups, &key.cgroup))
		return 0;
	n = bpf_map_lookup_elem(&calls, &key);
	if (!n) {
		bpf_map_update_elem(&calls, &key, &zero, BPF_NOEXIST);
		n = bpf_map_lookup_elem(&calls, &key);
	}
	if (n)
		__sync_fetch_and_add(n, 1);
	return 0;
}
