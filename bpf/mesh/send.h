/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The client's end of the hand-off. A connection that is none pays for a look at
 * its storage in connect(), and for one at its callback flags when it is
 * established.
 */
#ifndef MESH_SEND_H
#define MESH_SEND_H

#include "accept.h"

/* handoff_of is NULL for a socket that has a header, see header.h. */
static __always_inline struct handoff *handoff_of(struct bpf_sock_ops *ctx)
{
	struct handoff *h = kept_handoff(ctx);

	return h && !h->codec ? h : NULL;
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
	set_callbacks(ctx, WRITES | CLOSES, 0);
}

/*
 * end_unreached is called when the socket's state changes. Without an answer of the
 * waypoint nothing of this connect() may be left: the socket may connect again, to
 * anywhere. With one the callback goes off before others ask for it.
 */
static __always_inline void end_unreached(struct bpf_sock_ops *ctx)
{
	if (ctx->args[0] != BPF_TCP_SYN_SENT || !handoff_of(ctx) ||
	    !(ctx->bpf_sock_ops_cb_flags & WRITES))
		return;
	if (ctx->args[1] != BPF_TCP_CLOSE) {
		set_callbacks(ctx, 0, CLOSES);
		return;
	}
	count_event(EVENT_HANDOFF_UNREACHED);
	set_callbacks(ctx, 0, WRITES | CLOSES);
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

/* is_carrier is true for a packet of h that has to have the option. */
static __always_inline bool is_carrier(const struct handoff *h, __u32 flags)
{
	return flags & TCP_FLAG_SYN || h->state == HANDOFF_AGAIN;
}

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

#endif
