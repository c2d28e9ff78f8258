/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Ending connected UDP sockets whose endpoint has left the service: their sends
 * run no program. Optional: needs BTF and bpf_sock_destroy (Linux 6.5).
 */
#ifndef MESH_END_H
#define MESH_END_H

#include <bpf/bpf_core_read.h>

#include "datagram.h"

extern int bpf_sock_destroy(struct sock_common *sk) __ksym;

/*
 * How often a socket is taken for one whose connect() was decided and is not
 * through: it may as well have been disconnected since, or have failed.
 */
#define PENDING_LOOKS 8

/* is_pending is true for a socket that may yet become connected to its flow. */
static __always_inline bool is_pending(struct sock_common *sk, struct flow *w)
{
	if (BPF_CORE_READ(sk, skc_state) == BPF_TCP_ESTABLISHED)
		return false;
	if (w->used >= PENDING_LOOKS)
		return false;
	w->used++;
	return true;
}

/* is_connected is true when a UDP socket is connected to this target. */
static __always_inline bool is_connected(struct sock_common *sk,
					 const struct flow *w)
{
	__be32 addr[4] = { 0, 0, bpf_htonl(0xffff), 0 };

	if (BPF_CORE_READ(sk, skc_state) != BPF_TCP_ESTABLISHED)
		return false;
	if (BPF_CORE_READ(sk, skc_family) == AF_INET)
		addr[3] = BPF_CORE_READ(sk, skc_daddr);
	else
		BPF_CORE_READ_INTO(&addr, sk, skc_v6_daddr.in6_u.u6_addr32);
	return is_flow_from(w, addr, BPF_CORE_READ(sk, skc_dport));
}

/* has_left is true when a connected socket's endpoint is not in the service. */
static __always_inline bool has_left(struct cpu_state *cpu,
				     const struct flow *w)
{
	struct frontend_key k = { .port = w->asked_port, .proto = IPPROTO_UDP };
	struct frontend f;
	__u32 exit;

	copy_addr(k.addr, w->asked);
	exit = find_exact(cpu, &k, &f);
	if (exit == EVENT_RETRY)
		return false; /* being replaced: the caller comes again after it */
	return exit != EXIT_REDIRECT || !still_leads(&f, w);
}

/*
 * The reader of the iterator gets the flow of each socket that was ended, and of
 * each that is pending: there, used is not 0.
 */
SEC("iter/udp")
int mesh_end_udp(struct bpf_iter__udp *ctx)
{
	struct sock_common *sk = (struct sock_common *)ctx->udp_sk;
	struct cpu_state *cpu = this_cpu();
	struct flow w = {};
	struct flows *all;

	if (!sk || !cpu)
		return 0;
	all = bpf_sk_storage_get(&udp_flows, ctx->udp_sk, NULL, 0);
	if (!all)
		return 0;
	w = all->connected;
	if (!w.asked_port || !has_left(cpu, &w))
		return 0;
	w.used = 0;
	if (is_pending(sk, &all->connected))
		w.used = all->connected.used;
	else if (is_connected(sk, &w) && !bpf_sock_destroy(sk))
		all->connected.used = PENDING_LOOKS; /* not pending */
	else
		return 0;
	bpf_seq_write(ctx->meta->seq, &w, sizeof(w));
	return 0;
}

#endif
