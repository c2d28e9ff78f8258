/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Listeners of a waypoint that are older than its entry in waypoints. Optional:
 * needs BTF, and from bpf_setsockopt what Linux 6.12 has.
 */
#ifndef MESH_PREPARE_H
#define MESH_PREPARE_H

#include <bpf/bpf_core_read.h>

#include "sockops.h"

#define BPF_TCP_LISTEN 10 /* enum of include/uapi/linux/bpf.h */

static __always_inline bool is_waypoints(struct sock_common *sk, __u16 port)
{
	__u64 cookie = BPF_CORE_READ(sk, skc_net.net, net_cookie);
	const __u32 *served = bpf_map_lookup_elem(&waypoints, &cookie);

	return served && *served == port;
}

/* The iterator sees the sockets of the namespace that opened it. */
SEC("iter/tcp")
int mesh_prepare(struct bpf_iter__tcp *ctx)
{
	struct sock_common *sk = ctx->sk_common;
	struct prepared p = {};
	struct tcp_sock *tcp;
	int one = 1, writes = WRITES;

	if (!sk || BPF_CORE_READ(sk, skc_state) != BPF_TCP_LISTEN)
		return 0;
	p.port = BPF_CORE_READ(sk, skc_num);
	p.family = BPF_CORE_READ(sk, skc_family);
	tcp = bpf_skc_to_tcp_sock(sk);
	if (!tcp || !is_waypoints(sk, p.port))
		return 0;
	p.save_syn =
		bpf_setsockopt(tcp, SOL_TCP, TCP_SAVE_SYN, &one, sizeof(one));
	p.callbacks = bpf_setsockopt(tcp, SOL_TCP, TCP_BPF_SOCK_OPS_CB_FLAGS,
				     &writes, sizeof(writes));
	bpf_seq_write(ctx->meta->seq, &p, sizeof(p));
	return 0;
}

#endif
