/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Both ends of the hand-off in one program for the node. A connection that is
 * none pays for a look at its storage in connect(), and for a look at its
 * callback flags when it is established.
 */
#ifndef MESH_SOCKOPS_H
#define MESH_SOCKOPS_H

#include "count.h"
#include "handoff.h"

#define SOL_IP 0
#define SOL_TCP 6
#define SOL_IPV6 41
#define SO_ORIGINAL_DST 80
#define TCP_SAVE_SYN 27
#define ENOENT 2
#define ENOMSG 42

#define TCP_FLAG_SYN 0x02
#define TCP_FLAG_ACK 0x10

#define WRITES BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG
#define READS BPF_SOCK_OPS_PARSE_ALL_HDR_OPT_CB_FLAG

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

/* The client's end. */

static __always_inline struct handoff *handoff_of(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;

	return sk ? bpf_sk_storage_get(&handoffs, sk, NULL, 0) : NULL;
}

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

/*
 * begin_handoff is called before the SYN is made. The socket may have connected
 * before, or again where no program of ours ran: what was kept holds for one
 * connect() that goes where it was sent.
 */
static __always_inline void begin_handoff(struct bpf_sock_ops *ctx)
{
	struct handoff *h = handoff_of(ctx);

	if (!h || h->state != HANDOFF_ASKED || !goes_to(ctx, &h->origin))
		return;
	h->state = HANDOFF_CONNECTING;
	set_callbacks(ctx, WRITES, 0);
}

/* put_full writes the option with the address; syn: without the id where it is needed. */
static __always_inline __u32 put_full(__u8 o[OPTION_SPACE],
				      const struct origin *to, bool syn)
{
	o[0] = OPTION_KIND;
	if (is_v4(to->asked)) {
		o[1] = OPTION_V4;
		o[2] = OPTION_ID_0;
		o[3] = OPTION_ID_1;
		__builtin_memcpy(o + 4, &to->asked[3], 4);
		__builtin_memcpy(o + 8, &to->asked_port, 2);
		return OPTION_V4;
	}
	if (syn) {
		o[1] = OPTION_V6_BARE;
		__builtin_memcpy(o + 2, to->asked, 16);
		__builtin_memcpy(o + 18, &to->asked_port, 2);
		return OPTION_V6_BARE;
	}
	o[1] = OPTION_V6;
	o[2] = OPTION_ID_0;
	o[3] = OPTION_ID_1;
	__builtin_memcpy(o + 4, to->asked, 16);
	__builtin_memcpy(o + 20, &to->asked_port, 2);
	return OPTION_V6;
}

static __always_inline void put_short(__u8 o[OPTION_SPACE], __u32 id)
{
	o[0] = OPTION_KIND;
	o[1] = OPTION_SHORT;
	o[2] = OPTION_ID_0;
	o[3] = OPTION_ID_1;
	__builtin_memcpy(o + 4, &id, 4);
}

static __always_inline void put_again(__u8 o[OPTION_SPACE])
{
	o[0] = OPTION_KIND;
	o[1] = OPTION_AGAIN;
	o[2] = OPTION_ID_0;
	o[3] = OPTION_ID_1;
}

/* is_carrier is true for a packet of h that has to have the option. */
static __always_inline bool is_carrier(const struct handoff *h, __u32 flags)
{
	return flags & TCP_FLAG_SYN || h->state == HANDOFF_AGAIN;
}

static __always_inline bool is_synack(__u32 flags)
{
	return (flags & (TCP_FLAG_SYN | TCP_FLAG_ACK)) ==
	       (TCP_FLAG_SYN | TCP_FLAG_ACK);
}

static __always_inline bool came_with_option(struct bpf_sock_ops *ctx);

static __always_inline void reserve_option(struct bpf_sock_ops *ctx)
{
	__u32 flags = ctx->skb_tcp_flags;
	struct handoff *h;
	__u32 full;

	if (is_synack(flags)) {
		if (ctx->args[0] == BPF_WRITE_HDR_TCP_SYNACK_COOKIE &&
		    came_with_option(ctx))
			bpf_reserve_hdr_opt(ctx, OPTION_AGAIN, 0);
		return;
	}
	h = handoff_of(ctx);
	if (!h || !is_carrier(h, flags))
		return;
	if (is_v4(h->origin.asked))
		full = OPTION_V4;
	else
		full = flags & TCP_FLAG_SYN ? OPTION_V6_BARE : OPTION_V6;
	if (bpf_reserve_hdr_opt(ctx, full, 0) && h->id)
		bpf_reserve_hdr_opt(ctx, OPTION_SHORT, 0);
}

/* sent counts a connection at its first SYN: others are sent again. */
static __always_inline void sent(struct handoff *h, __u32 event)
{
	if (h->state != HANDOFF_CONNECTING)
		return;
	h->state = HANDOFF_SENT;
	count_event(event);
}

static __always_inline void write_option(struct bpf_sock_ops *ctx)
{
	__u8 o[OPTION_SPACE] = {};
	__u32 flags = ctx->skb_tcp_flags;
	struct handoff *h;
	__u32 n;

	if (is_synack(flags)) {
		/* Asked for by reserve_option(), which saw the SYN. */
		put_again(o);
		bpf_store_hdr_opt(ctx, o, OPTION_AGAIN, 0);
		return;
	}
	h = handoff_of(ctx);
	if (!h || !is_carrier(h, flags))
		return;
	n = put_full(o, &h->origin, flags & TCP_FLAG_SYN);
	if (!bpf_store_hdr_opt(ctx, o, n, 0)) {
		sent(h, EVENT_HANDOFF_FULL);
		return;
	}
	if (!h->id)
		return;
	put_short(o, h->id);
	if (!bpf_store_hdr_opt(ctx, o, OPTION_SHORT, 0))
		sent(h, EVENT_HANDOFF_SHORT);
}

/*
 * end_or_repeat is called when the SYN-ACK has come. From here on packets cost
 * nothing, unless the waypoint has not kept the SYN (SYN cookies): then every
 * packet has the option until one has come back.
 */
static __always_inline void end_or_repeat(struct bpf_sock_ops *ctx)
{
	__u8 o[OPTION_SPACE] = {};
	struct handoff *h;

	if (!(ctx->bpf_sock_ops_cb_flags & WRITES))
		return;
	h = handoff_of(ctx);
	if (!h)
		return;
	sent(h, EVENT_HANDOFF_UNSENT);
	put_again(o);
	if (bpf_load_hdr_opt(ctx, o, OPTION_AGAIN, 0) == OPTION_AGAIN) {
		h->state = HANDOFF_AGAIN;
		count_event(EVENT_HANDOFF_RESENT);
		set_callbacks(ctx, READS, 0);
	} else {
		set_callbacks(ctx, 0, WRITES);
	}
}

static __always_inline void end_repeat(struct bpf_sock_ops *ctx)
{
	struct handoff *h = handoff_of(ctx);

	if (!h || h->state != HANDOFF_AGAIN ||
	    ctx->skb_tcp_flags & TCP_FLAG_SYN)
		return;
	h->state = HANDOFF_SENT;
	set_callbacks(ctx, 0, WRITES | READS);
}

/* The waypoint's end. */

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
 * accept_handoff is called while the new socket is locked: whoever accepts it
 * waits for that lock, so it never sees a socket without its answer.
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
		return; /* a further subflow of an answered connection */
	if (event == EVENT_HANDOFF_ANSWERED &&
	    (!keep_answer(sk, &to) || (mptcp && !keep_answer(mptcp, &to))))
		event = EVENT_HANDOFF_LOST;
	count_event(event);
}

/* The question for the answer. */

/* The kernel copies no more than a page of a longer option for programs. */
#define LARGEST_OPTION 4096

/* The kernel takes two stores of four bytes, not one of eight. */
static __always_inline void answered_with(struct bpf_sockopt *ctx, __s32 len)
{
	ctx->optlen = len;
	barrier();
	ctx->retval = 0;
}

static __always_inline bool answer_version(struct bpf_sockopt *ctx)
{
	__u32 *value = ctx->optval;

	if ((void *)(value + 1) > ctx->optval_end)
		return false;
	*value = HANDOFF_VERSION;
	answered_with(ctx, sizeof(*value));
	return true;
}

static __always_inline bool answer4(struct bpf_sockopt *ctx,
				    const struct destination *to)
{
	struct sockaddr_in *value = ctx->optval;

	if ((void *)(value + 1) > ctx->optval_end)
		return false;
	__builtin_memset(value, 0, sizeof(*value));
	value->sin_family = AF_INET;
	value->sin_port = to->port;
	value->sin_addr.s_addr = to->addr[3];
	answered_with(ctx, sizeof(*value));
	return true;
}

static __always_inline bool answer6(struct bpf_sockopt *ctx,
				    const struct destination *to)
{
	struct sockaddr_in6 *value = ctx->optval;

	if ((void *)(value + 1) > ctx->optval_end)
		return false;
	__builtin_memset(value, 0, sizeof(*value));
	value->sin6_family = AF_INET6;
	value->sin6_port = to->port;
	copy_addr(value->sin6_addr.in6_u.u6_addr32, to->addr);
	answered_with(ctx, sizeof(*value));
	return true;
}

/* answer_option is false where the kernel's own answer stands. */
static __always_inline bool answer_option(struct bpf_sockopt *ctx)
{
	int level = ctx->level, option = ctx->optname;
	struct bpf_sock *sk = ctx->sk;
	const struct destination *to;

	if (level == SOL_IP && option == HANDOFF_VERSION_OPTION)
		return answer_version(ctx);
	if (option != SO_ORIGINAL_DST || (level != SOL_IP && level != SOL_IPV6))
		return false;
	to = sk ? bpf_sk_storage_get(&answers, sk, NULL, 0) : NULL;
	if (!to)
		return false;
	if (level == SOL_IPV6)
		return answer6(ctx, to);
	return is_v4(to->addr) && answer4(ctx, to);
}

#endif
