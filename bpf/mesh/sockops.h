/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What both ends of the hand-off need of sockops. */
#ifndef MESH_SOCKOPS_H
#define MESH_SOCKOPS_H

#include "count.h"
#include "handoff.h"

#define SOL_TCP 6
#define TCP_SAVE_SYN 27
#define ENOENT 2
#define ENOMSG 42

#define TCP_FLAG_SYN 0x02
#define TCP_FLAG_ACK 0x10

#define WRITES BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG
#define READS BPF_SOCK_OPS_PARSE_ALL_HDR_OPT_CB_FLAG
/* Marks a socket of a hand-off from its SYN on. */
#define CLOSES BPF_SOCK_OPS_STATE_CB_FLAG

#define BPF_TCP_CLOSE_WAIT 8 /* enum of include/uapi/linux/bpf.h */

static __always_inline void set_callbacks(struct bpf_sock_ops *ctx, __u32 on,
					  __u32 off)
{
	bpf_sock_ops_cb_flags_set(ctx,
				  (ctx->bpf_sock_ops_cb_flags & ~off) | on);
}

static __always_inline void count_event(__u32 event)
{
	struct cpu_state *cpu = this_cpu();

	if (cpu)
		count(cpu, event);
}

static __always_inline struct handoff *kept_handoff(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;

	return sk ? bpf_sk_storage_get(&handoffs, sk, NULL, 0) : NULL;
}

/* goes_to is true for a socket that connects to where o says that it was sent. */
static __always_inline bool goes_to(struct bpf_sock_ops *ctx,
				    const struct origin *o)
{
	__be32 addr[4] = { ctx->remote_ip6[0], ctx->remote_ip6[1],
			   ctx->remote_ip6[2], ctx->remote_ip6[3] };
	__be32 addr4 = ctx->remote_ip4;

	/* Both are read before the choice: the verifier follows no changed ctx. */
	barrier_var(addr4);
	if (ctx->family != AF_INET6) {
		addr[0] = addr[1] = 0;
		addr[2] = bpf_htonl(0xffff);
		addr[3] = addr4;
	}
	/* The upper half has the port, in network byte order. */
	return ctx->remote_port >> 16 == o->target_port &&
	       same_addr(addr, o->target);
}

static __always_inline bool is_synack(__u32 flags)
{
	return (flags & (TCP_FLAG_SYN | TCP_FLAG_ACK)) ==
	       (TCP_FLAG_SYN | TCP_FLAG_ACK);
}

static __always_inline void put_again(__u8 o[OPTION_SPACE])
{
	o[0] = OPTION_KIND;
	o[1] = OPTION_AGAIN;
	o[2] = OPTION_ID_0;
	o[3] = OPTION_ID_1;
}

#endif
