/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What became of connections: changes of TCP state, by whatever hook sees them.
 *
 * The kernel does not run a tracing program that is already running on the same
 * CPU: a packet that comes in while the program looks at a connect() would change
 * a state unseen. It happens about once in some thousand connections. So the
 * program is attached twice, and the second copy takes what the first one missed.
 * Both miss the same change only where three are nested on one CPU; state changes
 * in tasks and in softirqs, which makes two. The number of changes that the first
 * copy missed is the kernel's; COUNTER_RESCUED says how many the second one took.
 */
#ifndef DUOMESH_PROBE_STATE_H
#define DUOMESH_PROBE_STATE_H

/* kind_of says which event a change of state is; EVENT_KINDS: none. A child that
 * is still being made (SYN_RECV) and listeners are no connections. */
static __always_inline enum event_kind kind_of(int old, int new)
{
	if (old == TCP_LISTEN || old == new)
		return EVENT_KINDS;
	switch (new) {
	case TCP_SYN_SENT:
		return EVENT_SYN_SENT;
	case TCP_ESTABLISHED:
		return EVENT_ESTABLISHED;
	case TCP_CLOSE:
		return EVENT_CLOSED;
	default:
		return EVENT_KINDS;
	}
}

/* mark_of tells a change of state from the one before and after it. */
static __always_inline __u64 mark_of(const struct sock *sk, int old, int new)
{
	return (__u64)sk ^ ((__u64)old << 56) ^ ((__u64) new << 48);
}

static __always_inline __u64 *taken_slot(const struct sock *sk)
{
	__u32 slot = ((__u64)sk * 0x9e3779b97f4a7c15ULL) >> 56;

	return bpf_map_lookup_elem(&taken, &slot);
}

/* take says that the first copy runs. Nested changes are of other sockets, for
 * the kernel holds the lock of this one; where they hash alike, the second copy
 * reports a change again, which user space sees. */
static __always_inline void take(const struct sock *sk, int old, int new)
{
	__u64 *slot = taken_slot(sk);

	if (slot)
		*slot = mark_of(sk, old, new);
}

/* missed says, in the second copy, whether the first one did not run. */
static __always_inline bool missed(const struct sock *sk, int old, int new)
{
	__u64 *slot = taken_slot(sk);

	if (slot && *slot == mark_of(sk, old, new)) {
		*slot = 0;
		return false;
	}
	count(COUNTER_RESCUED);
	return true;
}

static __always_inline void read_addresses(struct event *e,
					   const struct sock *sk)
{
	const struct inet_sock *inet = (const struct inet_sock *)sk;

	e->family = BPF_CORE_READ(sk, __sk_common.skc_family);
	e->sport = BPF_CORE_READ(inet, inet_sport);
	e->dport = BPF_CORE_READ(sk, __sk_common.skc_dport);
	if (e->family == AF_INET6 &&
	    bpf_core_field_exists(sk->__sk_common.skc_v6_daddr)) {
		BPF_CORE_READ_INTO(&e->src, sk, __sk_common.skc_v6_rcv_saddr);
		BPF_CORE_READ_INTO(&e->dst, sk, __sk_common.skc_v6_daddr);
		return;
	}
	map_v4(e->src, BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr));
	map_v4(e->dst, BPF_CORE_READ(sk, __sk_common.skc_daddr));
}

/* on_state reports a change of state of sk; NULL where it is not of interest.
 * The caller adds the cookie, which hooks get in different ways, and submits. */
static __always_inline struct event *on_state(const struct sock *sk, int old,
					      int new)
{
	enum event_kind kind = kind_of(old, new);
	struct event *e;
	__u64 netns;
	__u32 *pod;

	if (kind == EVENT_KINDS ||
	    BPF_CORE_READ(sk, sk_protocol) != IPPROTO_TCP)
		return NULL;
	netns = netns_of(sk);
	pod = bpf_map_lookup_elem(&watched, &netns);
	if (!pod)
		return NULL;
	e = new_event(kind, HOOK_STATE, *pod);
	if (!e)
		return NULL;
	e->sock = (__u64)sk;
	e->protocol = IPPROTO_TCP;
	e->old_state = old;
	e->err = BPF_CORE_READ(sk, sk_err);
	read_addresses(e, sk);
	return e;
}

#endif
