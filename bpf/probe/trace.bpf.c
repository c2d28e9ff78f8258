// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Programs that name functions of the kernel and say why packets were thrown away.
 * Each is loaded alone, where somebody asks for it; verdicts do not rest on them.
 */
#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "consts.h"
#include "trace.h"

/* watched: netns cookie -> pod number. Written by user space. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, __u32);
} watched SEC(".maps");

/* links: interfaces outside of a pod that are its own -> pod number. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct trace_link);
	__type(value, __u32);
} links SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4194304);
} trace_events SEC(".maps");

/* trace_full: events that found no room. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} trace_full SEC(".maps");

/* trace_counts: calls by the number that user space gave the function. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1); /* set at load */
	__type(key, __u32);
	__type(value, struct trace_calls);
} trace_counts SEC(".maps");

#include "sock.h"
#include "packet.h"
#include "stack.h"
#include "drop.h"

/* Types that Go needs and that no map names. */
const struct sighting *mention_sighting __attribute__((unused));
const enum trace_shape *mention_shape __attribute__((unused));
const enum trace_kind *mention_kind __attribute__((unused));

char LICENSE[] SEC("license") = "Dual BSD/GPL";

SEC("kprobe/__inet_stream_connect")
int call_kprobe(struct pt_regs *ctx)
{
	return called_by_registers(ctx);
}

SEC("kprobe.multi/__inet_stream_connect")
int call_multi(struct pt_regs *ctx)
{
	return called_by_registers(ctx);
}

SEC("kretprobe/inet_csk_accept")
int return_kprobe(struct pt_regs *ctx)
{
	return returned_by_registers(ctx);
}

SEC("kretprobe.multi/inet_csk_accept")
int return_multi(struct pt_regs *ctx)
{
	return returned_by_registers(ctx);
}

SEC("fentry/__inet_stream_connect")
int call_fentry(__u64 *ctx)
{
	__u64 args[4] = {};

	bpf_get_func_arg(ctx, 0, &args[0]);
	bpf_get_func_arg(ctx, 1, &args[1]);
	bpf_get_func_arg(ctx, 2, &args[2]);
	bpf_get_func_arg(ctx, 3, &args[3]);
	return called(bpf_get_attach_cookie(ctx), args);
}

SEC("fexit/inet_csk_accept")
int return_fexit(__u64 *ctx)
{
	__u64 args[4] = {};

	bpf_get_func_ret(ctx, &args[0]);
	return called(bpf_get_attach_cookie(ctx), args);
}

SEC("kprobe/__inet_stream_connect")
int count_kprobe(struct pt_regs *ctx)
{
	return count_call(bpf_get_attach_cookie(ctx));
}

SEC("kprobe.multi/__inet_stream_connect")
int count_multi(struct pt_regs *ctx)
{
	return count_call(bpf_get_attach_cookie(ctx));
}

SEC("fentry/__inet_stream_connect")
int count_fentry(__u64 *ctx)
{
	return count_call(bpf_get_attach_cookie(ctx));
}

SEC("tp_btf/kfree_skb")
int drop_btf(__u64 *ctx)
{
	return dropped(ctx);
}

SEC("raw_tp/kfree_skb")
int drop_raw(__u64 *ctx)
{
	return dropped(ctx);
}
