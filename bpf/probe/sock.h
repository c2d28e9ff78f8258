/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Reads of kernel sockets, each relocated at load (CO-RE). */
#ifndef DUOMESH_PROBE_SOCK_H
#define DUOMESH_PROBE_SOCK_H

static __always_inline __u64 netns_of(const struct sock *sk)
{
	return BPF_CORE_READ(sk, __sk_common.skc_net.net, net_cookie);
}

/* cookie_of is 0 for a socket that nobody has asked for its cookie yet. */
static __always_inline __u64 cookie_of(const struct sock *sk)
{
	return BPF_CORE_READ(sk, __sk_common.skc_cookie.counter);
}

static __always_inline int state_of(const struct sock *sk)
{
	return BPF_CORE_READ(sk, __sk_common.skc_state);
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

#endif
