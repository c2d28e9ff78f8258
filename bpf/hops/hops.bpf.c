// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Follows a request through the processes of some cgroups: every system call as it
 * returns, with the bytes that it moved through a TCP socket, and when the scheduler
 * woke, ran and stopped the threads that make them.
 */
#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#define IPPROTO_TCP_ 6

enum kind {
	KIND_CALL = 0,
	KIND_SWITCH = 1,
	KIND_WAKING = 2,
};

enum flag {
	FLAG_SENT = 1,	 /* a call that moved bytes to a TCP socket */
	FLAG_READ = 2,	 /* … or from one */
	FLAG_SLEEPS = 4, /* a switch from a thread that now waits */
};

/* hop is one event, in the byte order of this machine. Times are CLOCK_MONOTONIC. */
struct hop {
	__u64 at;
	__u64 began; /* of a call */
	__u32 tid; /* who called, was woken, or gave the processor up (0: none of ours) */
	__u32 next; /* who got the processor (0: none of ours) */
	__s32 value; /* of a call: bytes through the socket, else what it returned */
	__u16 number; /* of the system call */
	__u8 role;
	__u8 kind;
	__u8 flags;
	__u8 next_role;
	__u8 pad[6];
};

/* What user space reads by name. */
const struct hop *events __attribute__((unused));
const enum kind *kinds __attribute__((unused));
const enum flag *flags __attribute__((unused));

struct thread {
	__u64 began;
	__s32 bytes;
	__u16 number;
	__u8 role;
	__u8 flags;
};

/* roles: what a cgroup is to the request, from 1 on, by the cgroup's id. Written by
 * user space. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u64);
	__type(value, __u8);
} roles SEC(".maps");

/* threads: those of a role, from their first call on, by their id. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, struct thread);
} threads SEC(".maps");

/* hops: the events. User space sets its size. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} hops SEC(".maps");

/* lost: events that found no room. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} lost SEC(".maps");

char LICENSE[] SEC("license") = "Dual BSD/GPL";

static __always_inline struct hop *reserve(enum kind kind)
{
	struct hop *h = bpf_ringbuf_reserve(&hops, sizeof(*h), 0);
	const __u32 zero = 0;
	__u64 *n;

	if (!h) {
		n = bpf_map_lookup_elem(&lost, &zero);
		if (n)
			__sync_fetch_and_add(n, 1);
		return NULL;
	}
	__builtin_memset(h, 0, sizeof(*h));
	h->kind = kind;
	return h;
}

/* submit wakes nobody: the ring is read when all is over. */
static __always_inline void submit(struct hop *h)
{
	h->at = bpf_ktime_get_ns();
	bpf_ringbuf_submit(h, BPF_RB_NO_WAKEUP);
}

static __always_inline struct thread *current_thread(void)
{
	__u32 tid = bpf_get_current_pid_tgid();

	return bpf_map_lookup_elem(&threads, &tid);
}

SEC("raw_tp/sys_enter")
int on_enter(struct bpf_raw_tracepoint_args *ctx)
{
	__u64 cgroup = bpf_get_current_cgroup_id();
	__u8 *role = bpf_map_lookup_elem(&roles, &cgroup);
	__u32 tid = bpf_get_current_pid_tgid();
	struct thread *t, fresh = {};

	if (!role)
		return 0;
	t = bpf_map_lookup_elem(&threads, &tid);
	if (!t) {
		fresh.role = *role;
		fresh.number = ctx->args[1];
		fresh.began = bpf_ktime_get_ns();
		bpf_map_update_elem(&threads, &tid, &fresh, BPF_ANY);
		return 0;
	}
	t->role = *role;
	t->number = ctx->args[1];
	t->bytes = 0;
	t->flags = 0;
	t->began = bpf_ktime_get_ns();
	return 0;
}

SEC("raw_tp/sys_exit")
int on_exit(struct bpf_raw_tracepoint_args *ctx)
{
	struct thread *t = current_thread();
	struct hop *h;

	if (!t || !t->began)
		return 0;
	h = reserve(KIND_CALL);
	if (h) {
		h->began = t->began;
		h->tid = bpf_get_current_pid_tgid();
		h->value = t->flags ? t->bytes : (__s32)ctx->args[1];
		h->number = t->number;
		h->role = t->role;
		h->flags = t->flags;
		submit(h);
	}
	t->began = 0;
	return 0;
}

static __always_inline int moved(struct bpf_raw_tracepoint_args *ctx,
				 enum flag flag)
{
	const struct sock *sk = (const struct sock *)ctx->args[0];
	struct thread *t = current_thread();
	int ret = ctx->args[1];

	if (!t || ret <= 0 || BPF_CORE_READ(sk, sk_protocol) != IPPROTO_TCP_)
		return 0;
	t->bytes += ret;
	t->flags |= flag;
	return 0;
}

SEC("raw_tp/sock_send_length")
int on_sent(struct bpf_raw_tracepoint_args *ctx)
{
	return moved(ctx, FLAG_SENT);
}

SEC("raw_tp/sock_recv_length")
int on_read(struct bpf_raw_tracepoint_args *ctx)
{
	return moved(ctx, FLAG_READ);
}

SEC("raw_tp/sched_waking")
int on_waking(struct bpf_raw_tracepoint_args *ctx)
{
	const struct task_struct *p = (const struct task_struct *)ctx->args[0];
	__u32 tid = BPF_CORE_READ(p, pid);
	struct thread *t = bpf_map_lookup_elem(&threads, &tid);
	struct hop *h;

	if (!t)
		return 0;
	h = reserve(KIND_WAKING);
	if (h) {
		h->tid = tid;
		h->role = t->role;
		submit(h);
	}
	return 0;
}

SEC("raw_tp/sched_switch")
int on_switch(struct bpf_raw_tracepoint_args *ctx)
{
	const struct task_struct *prev =
		(const struct task_struct *)ctx->args[1];
	const struct task_struct *next =
		(const struct task_struct *)ctx->args[2];
	__u32 from = BPF_CORE_READ(prev, pid), to = BPF_CORE_READ(next, pid);
	struct thread *a = bpf_map_lookup_elem(&threads, &from);
	struct thread *b = bpf_map_lookup_elem(&threads, &to);
	__u8 role = a ? a->role : 0, next_role = b ? b->role : 0;
	struct hop *h;

	if (!role && !next_role)
		return 0;
	h = reserve(KIND_SWITCH);
	if (!h)
		return 0;
	if (role) {
		h->tid = from;
		h->role = role;
		/* preempted, or with something left to do: it does not wait */
		if (!ctx->args[0] && BPF_CORE_READ(prev, __state))
			h->flags = FLAG_SLEEPS;
	}
	if (next_role) {
		h->next = to;
		h->next_role = next_role;
	}
	submit(h);
	return 0;
}
