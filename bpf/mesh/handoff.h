/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The hand-off: a TCP option that tells a waypoint where a connection was going.
 * Kind 254 and an experiment's id (RFC 4727, RFC 6994). Behind them:
 *
 *	address and port	IPv4: length 10, IPv6: length 22
 *	id of both		length 8
 *	nothing			length 4: a SYN-ACK that asks for the first again
 *
 * In a SYN an IPv6 address has no room beside timestamps unless the experiment's
 * id goes: length 20.
 *
 * The option chooses a route. It says nothing of who the client is: whoever may
 * send raw packets can write any option.
 */
#ifndef MESH_HANDOFF_H
#define MESH_HANDOFF_H

#include "config.h"
#include "origin.h"

#define OPTION_KIND 254
#define OPTION_ID_0 'd'
#define OPTION_ID_1 'm'

enum option_length {
	OPTION_AGAIN = 4,
	OPTION_SHORT = 8,
	OPTION_V4 = 10,
	OPTION_V6_BARE = 20,
	OPTION_V6 = 22,
	OPTION_SPACE = 24,
};

static __always_inline bool is_v4(const __be32 addr[4])
{
	return !addr[0] && !addr[1] && addr[2] == bpf_htonl(0xffff);
}

#define HEADERS (FRONTEND_PROXY_V2 | FRONTEND_KMESH_TLV)

/* opens_fast is true for a connect that is to have data in its SYN. */
static __always_inline bool opens_fast(struct bpf_sock_addr *ctx)
{
	const void *tcp;

	if (!cfg_fast_message)
		return false;
	tcp = bpf_skc_to_tcp_sock(ctx->sk);
	if (!tcp)
		return false;
	return *(void *const *)(tcp + cfg_fast_message) ||
	       *(const __u8 *)(tcp + cfg_fast_connect) & cfg_fast_connect_bit;
}

/*
 * can_have_header is false where the first bytes do not pass a program. Without
 * cfg_places a subflow of MPTCP is found out later: the kernel takes none into
 * unsent.
 */
static __always_inline bool can_have_header(struct bpf_sock_addr *ctx)
{
	return !mptcp_of(ctx) && !opens_fast(ctx);
}

static __always_inline void refuse(struct choice *c, enum mesh_exit exit)
{
	c->addr = NULL;
	c->exit = exit;
}

/*
 * keep_handoff keeps what was asked where the SYN's program finds it. Without
 * memory for it the connection is refused: the waypoint could not serve it.
 */
static __always_inline void keep_handoff(struct bpf_sock_addr *ctx,
					 const struct frontend_key *k,
					 struct choice *c)
{
	__u32 codec = c->flags & HEADERS;
	struct handoff *h;

	if (codec && !can_have_header(ctx)) {
		refuse(c, EXIT_REFUSE_CODEC);
		return;
	}
	h = bpf_sk_storage_get(&handoffs, ctx->sk, NULL,
			       BPF_SK_STORAGE_GET_F_CREATE);
	if (!h) {
		refuse(c, EXIT_REFUSE_NO_FLOW);
		return;
	}
	copy_addr(h->origin.asked, k->addr);
	copy_addr(h->origin.target, c->addr);
	h->origin.asked_port = k->port;
	h->origin.target_port = c->port;
	h->id = c->id;
	h->codec = codec;
	h->state = HANDOFF_ASKED;
}

#endif
