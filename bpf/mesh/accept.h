/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The waypoint's end of the hand-off. */
#ifndef MESH_ACCEPT_H
#define MESH_ACCEPT_H

#include "choose.h"
#include "sockops.h"

/* serves is true for sockets at the hand-off port of a waypoint. */
static __always_inline bool serves(struct bpf_sock_ops *ctx)
{
	__u64 cookie = bpf_get_netns_cookie(ctx);
	const __u32 *port = bpf_map_lookup_elem(&waypoints, &cookie);

	return port && *port == ctx->local_port;
}

/*
 * prepare_listener has a new listener keep SYNs for its children. They inherit
 * the callback flag, by which accept_handoff() knows them.
 */
static __always_inline void prepare_listener(struct bpf_sock_ops *ctx)
{
	int one = 1;

	if (!serves(ctx))
		return;
	bpf_setsockopt(ctx, SOL_TCP, TCP_SAVE_SYN, &one, sizeof(one));
	set_callbacks(ctx, WRITES, 0);
}

/* The largest TCP header, and the smallest. */
#define LARGEST_HEADER 60
#define SMALLEST_HEADER 20

/*
 * bare_v6 looks for the IPv6 form without the experiment's id, for which the
 * kernel's helper does not search. The kernel writes a program's option last.
 */
static __always_inline bool bare_v6(struct bpf_sock_ops *ctx,
				    struct destination *to)
{
	__u8 header[64] = {};
	int n;
	__u32 at;

	n = bpf_getsockopt(ctx, SOL_TCP, TCP_BPF_SYN, header, LARGEST_HEADER);
	if (n < SMALLEST_HEADER + OPTION_V6_BARE || n > LARGEST_HEADER)
		return false;
	at = n - OPTION_V6_BARE;
	barrier_var(at); /* the verifier knows the bounds by what follows */
	at &= 63;
	if (at > LARGEST_HEADER - OPTION_V6_BARE)
		return false;
	if (header[at] != OPTION_KIND || header[at + 1] != OPTION_V6_BARE)
		return false;
	__builtin_memcpy(to->addr, header + at + 2, 16);
	__builtin_memcpy(&to->port, header + at + 18, 2);
	return true;
}

static __always_inline int load_option(struct bpf_sock_ops *ctx,
				       __u8 o[OPTION_SPACE], __u64 where)
{
	put_again(o); /* what to search for */
	return bpf_load_hdr_opt(ctx, o, OPTION_SPACE, where);
}

/* came_with_option is for the SYN that a SYN-ACK answers. */
static __always_inline bool came_with_option(struct bpf_sock_ops *ctx)
{
	__u8 o[OPTION_SPACE] = {};
	struct destination to = {};

	return load_option(ctx, o, BPF_LOAD_HDR_OPT_TCP_SYN) > OPTION_AGAIN ||
	       bare_v6(ctx, &to);
}

static __always_inline __u64 name_check(__u32 id, const struct destination *to)
{
	return to->addr[0] * CHECK_K0 + to->addr[1] * CHECK_K1 +
	       to->addr[2] * CHECK_K2 + to->addr[3] * CHECK_K3 +
	       to->port * CHECK_K4 + id * CHECK_K5;
}

/* by_id looks up what an id stands for. See struct frontend on check. */
static __always_inline bool by_id(__u32 id, struct destination *to)
{
	const struct name *n = bpf_map_lookup_elem(&names, &id);

	if (!n)
		return false;
	for (int i = 0; i < 4; i++)
		to->addr[i] = READ_ONCE(n->to.addr[i]);
	to->port = READ_ONCE(n->to.port);
	return READ_ONCE(n->check) == name_check(id, to);
}

/* read_option returns an event, or what the kernel said of the search. */
static __always_inline int read_option(struct bpf_sock_ops *ctx,
				       struct destination *to, __u64 where)
{
	__u8 o[OPTION_SPACE] = {};
	int n = load_option(ctx, o, where);
	__u32 id;

	switch (n) {
	case OPTION_V4:
		to->addr[2] = bpf_htonl(0xffff);
		__builtin_memcpy(&to->addr[3], o + 4, 4);
		__builtin_memcpy(&to->port, o + 8, 2);
		return EVENT_HANDOFF_ANSWERED;
	case OPTION_V6:
		__builtin_memcpy(to->addr, o + 4, 16);
		__builtin_memcpy(&to->port, o + 20, 2);
		return EVENT_HANDOFF_ANSWERED;
	case OPTION_SHORT:
		__builtin_memcpy(&id, o + 4, 4);
		return by_id(id, to) ? EVENT_HANDOFF_ANSWERED
				     : EVENT_HANDOFF_UNKNOWN_ID;
	}
	return n < 0 ? n : EVENT_HANDOFF_NO_ANSWER;
}

/* read_handoff finds where the client was going: in the SYN, or in the first ACK. */
static __always_inline int read_handoff(struct bpf_sock_ops *ctx,
					struct destination *to)
{
	int event = read_option(ctx, to, BPF_LOAD_HDR_OPT_TCP_SYN);

	if (event == -ENOMSG && bare_v6(ctx, to))
		return EVENT_HANDOFF_ANSWERED;
	if (event == -ENOENT) /* no SYN was kept: a cookie */
		event = read_option(ctx, to, 0);
	return event < 0 ? EVENT_HANDOFF_NO_ANSWER : event;
}

static __always_inline bool keep_answer(void *sk, const struct destination *to)
{
	struct destination *kept;

	kept = bpf_sk_storage_get(&answers, sk, NULL,
				  BPF_SK_STORAGE_GET_F_CREATE);
	if (kept)
		*kept = *to;
	return kept;
}

/* The socket that accept() returns, where it is not the one that is established. */
static __always_inline struct mptcp_sock *accepted_mptcp(struct bpf_sock *sk)
{
	return cfg_places ? bpf_skc_to_mptcp_sock(sk) : NULL;
}

/*
 * heard_nothing has whoever accepts an MPTCP socket wait no longer, see
 * await_answer(): the port 0 is no destination.
 */
static __always_inline void heard_nothing(struct mptcp_sock *mptcp)
{
	const struct destination none = {};

	keep_answer(mptcp, &none);
}

/*
 * accept_handoff is called while the new socket is locked, and whoever accepts it
 * waits for that lock; of an MPTCP socket only the subflow is locked.
 */
static __always_inline void accept_handoff(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct destination to = {};
	struct mptcp_sock *mptcp;
	int event;

	if (!(ctx->bpf_sock_ops_cb_flags & WRITES))
		return;
	set_callbacks(ctx, 0, WRITES);
	if (!sk || !serves(ctx))
		return;
	event = read_handoff(ctx, &to);
	mptcp = accepted_mptcp(sk);
	if (mptcp && event != EVENT_HANDOFF_ANSWERED &&
	    bpf_sk_storage_get(&answers, mptcp, NULL, 0))
		return; /* a further subflow of a connection that was heard */
	if (event == EVENT_HANDOFF_ANSWERED &&
	    (!keep_answer(sk, &to) || (mptcp && !keep_answer(mptcp, &to))))
		event = EVENT_HANDOFF_LOST;
	if (mptcp && event != EVENT_HANDOFF_ANSWERED)
		heard_nothing(mptcp);
	count_event(event);
}

#endif
