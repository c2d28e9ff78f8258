/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a TCP socket asked for, kept so that getpeername can answer it. A UDP
 * socket has that among its flows.
 *
 * A TCP socket has a place in the array origins, which costs little, or, where
 * the place is taken, its own storage, which costs 1 us. The programs see the
 * first subflow of an MPTCP connection; the application has another socket, and
 * only that one is ever released: its storage is used.
 */
#ifndef MESH_ORIGIN_H
#define MESH_ORIGIN_H

#include "config.h"
#include "datagram.h"

static __always_inline struct origin_place *origin_place(__u64 cookie)
{
	__u32 index = cookie % ORIGIN_PLACES;

	return bpf_map_lookup_elem(&origins, &index);
}

static __always_inline void write_origin(struct origin *o,
					 const struct frontend_key *k,
					 const struct choice *c)
{
	for (int i = 0; i < 4; i++) {
		o->asked[i] = k->addr[i];
		o->target[i] = c->addr[i];
	}
	o->asked_port = k->port;
	o->target_port = c->port;
}

/* take_place is true when the place is the socket's own. */
static __always_inline bool take_place(struct origin_place *p, __u64 cookie)
{
	if (p->cookie == cookie)
		return true;
	return !p->cookie &&
	       !__sync_val_compare_and_swap(&p->cookie, 0, cookie);
}

static __always_inline bool keep_in_place(struct bpf_sock_addr *ctx,
					  const struct frontend_key *k,
					  const struct choice *c)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct origin_place *p = origin_place(cookie);

	if (!p || !take_place(p, cookie))
		return false;
	write_origin(&p->origin, k, c);
	return true;
}

/* The application's socket, where it is not the one that connects. */
static __always_inline struct mptcp_sock *mptcp_of(struct bpf_sock_addr *ctx)
{
	return cfg_places ? bpf_skc_to_mptcp_sock(ctx->sk) : NULL;
}

#define BPF_TCP_SYN_SENT 2 /* enum of include/uapi/linux/bpf.h */
#define BPF_TCP_CLOSE 7

/*
 * joins is true for a further subflow of an MPTCP connection: the application's socket
 * is past the connect() of the first one. Where the kernel does not tell, one that goes
 * to where the first one went is taken for it.
 */
static __always_inline bool joins(struct mptcp_sock *mptcp,
				  const struct frontend_key *k)
{
	const struct origin *o;
	__u8 state;

	if (cfg_mptcp_state) {
		state = *((const __u8 *)mptcp + cfg_mptcp_state);
		return state != BPF_TCP_CLOSE && state != BPF_TCP_SYN_SENT;
	}
	o = bpf_sk_storage_get(&spilled, mptcp, NULL, 0);
	return o && o->target_port == k->port && same_addr(o->target, k->addr);
}

/* leave_join is true for what joins: it goes where it goes, whatever that is to others. */
static __always_inline bool leave_join(struct mptcp_sock *mptcp,
				       const struct frontend_key *k,
				       struct choice *c)
{
	if (!joins(mptcp, k))
		return false;
	c->addr = NULL;
	c->exit = EXIT_PASS_NO_VIP;
	return true;
}

static __always_inline void keep_origin(struct bpf_sock_addr *ctx,
					struct cpu_state *cpu,
					const struct frontend_key *k,
					struct choice *c)
{
	struct mptcp_sock *mptcp = mptcp_of(ctx);
	struct origin *o;

	if (mptcp && leave_join(mptcp, k, c))
		return;
	if (mptcp)
		o = bpf_sk_storage_get(&spilled, mptcp, NULL,
				       BPF_SK_STORAGE_GET_F_CREATE);
	else if (cfg_places && keep_in_place(ctx, k, c))
		return;
	else
		o = bpf_sk_storage_get(&spilled, ctx->sk, NULL,
				       BPF_SK_STORAGE_GET_F_CREATE);
	if (o)
		write_origin(o, k, c);
	else
		count(cpu, EVENT_ORIGIN_LOST);
}

static __always_inline void give_back(__u64 cookie)
{
	struct origin_place *p = origin_place(cookie);

	if (p && p->cookie == cookie)
		p->cookie = 0;
}

/*
 * forget_origin is for a socket that connects anew and is not redirected. Where the
 * kernel does not tell what joins, an MPTCP socket's is left to the comparison in
 * asked_for(): it must not be taken away by a further subflow.
 */
static __always_inline void forget_origin(struct bpf_sock_addr *ctx,
					  const struct frontend_key *k,
					  struct choice *c)
{
	struct mptcp_sock *mptcp = mptcp_of(ctx);

	if (mptcp) {
		if (!leave_join(mptcp, k, c) && cfg_mptcp_state)
			bpf_sk_storage_delete(&spilled, mptcp);
		return;
	}
	give_back(bpf_get_socket_cookie(ctx));
	bpf_sk_storage_delete(&spilled, ctx->sk);
}

static __always_inline const struct origin *origin_of(struct bpf_sock_addr *ctx)
{
	__u64 cookie = bpf_get_socket_cookie(ctx);
	struct origin_place *p = origin_place(cookie);

	if (p && p->cookie == cookie)
		return &p->origin;
	return bpf_sk_storage_get(&spilled, ctx->sk, NULL, 0);
}

/*
 * asked_for finds what to answer for the peer at addr, port. The target is
 * compared because a socket may have connected again where no program of ours
 * ran.
 */
static __always_inline void asked_for(struct bpf_sock_addr *ctx,
				      const __be32 addr[4], __be16 port,
				      struct answered *a)
{
	const struct origin *o;

	if (ctx->protocol == IPPROTO_UDP) {
		connected_to(ctx, addr, port, a);
		return;
	}
	o = origin_of(ctx);
	if (o && o->target_port == port && same_addr(o->target, addr)) {
		a->asked = o->asked;
		a->port = o->asked_port;
	}
}

#endif
