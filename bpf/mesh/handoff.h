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
#include "flow.h"

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

/*
 * keep_handoff keeps what was asked where the SYN's program finds it. Without
 * memory for it the connection is refused: the waypoint could not serve it.
 */
static __always_inline void keep_handoff(struct bpf_sock_addr *ctx,
					 const struct frontend_key *k,
					 struct choice *c)
{
	struct handoff *h = bpf_sk_storage_get(&handoffs, ctx->sk, NULL,
					       BPF_SK_STORAGE_GET_F_CREATE);

	if (!h) {
		c->addr = NULL;
		c->exit = EXIT_REFUSE_NO_FLOW;
		return;
	}
	copy_addr(h->origin.asked, k->addr);
	copy_addr(h->origin.target, c->addr);
	h->origin.asked_port = k->port;
	h->origin.target_port = c->port;
	h->id = c->id;
	h->state = HANDOFF_ASKED;
}

#endif
