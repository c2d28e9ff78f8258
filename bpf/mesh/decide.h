/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The decision at connect(), shared by both address families. */
#ifndef MESH_DECIDE_H
#define MESH_DECIDE_H

#include "datagram.h"
#include "handoff.h"
#include "origin.h"

#define ECONNREFUSED 111

static __always_inline bool is_managed(struct bpf_sock_addr *ctx)
{
	__u64 cookie = bpf_get_netns_cookie(ctx);
	__u32 index = cookie % POD_PLACES;
	const __u64 *place = bpf_map_lookup_elem(&pods, &index);
	__u64 pod;

	if (!place)
		return false;
	pod = READ_ONCE(*place);
	if (pod != POD_PLACE_SHARED)
		return pod == cookie;
	return bpf_map_lookup_elem(&managed, &cookie);
}

/* protocol is that of the frontends for ctx's socket, 0 when there are none. */
static __always_inline __u8 protocol(struct bpf_sock_addr *ctx)
{
	switch (ctx->protocol) {
	case IPPROTO_TCP:
	case IPPROTO_MPTCP:
		return IPPROTO_TCP;
	case IPPROTO_UDP:
		return IPPROTO_UDP;
	}
	return 0;
}

/* untouched returns the exit of a connection that is none of ours, or -1. */
static __always_inline int untouched(struct bpf_sock_addr *ctx, __u8 proto)
{
	if (!is_managed(ctx))
		return EXIT_PASS_UNMANAGED;
	if (!proto)
		return EXIT_PASS_PROTOCOL;
	return -1;
}

static __always_inline void keep_udp(struct bpf_sock_addr *ctx,
				     const struct frontend_key *k,
				     struct choice *c)
{
	if (!c->addr) {
		forget_connected(ctx);
	} else if (!keep_connected(ctx, k, c)) {
		c->addr = NULL;
		c->exit = EXIT_REFUSE_NO_FLOW;
	}
}

/* decide counts the exit. Where c->addr is set the caller must write it. */
static __always_inline void decide(struct bpf_sock_addr *ctx,
				   struct cpu_state *cpu,
				   const struct frontend_key *k,
				   struct choice *c)
{
	choose(cpu, k, c);
	if (k->proto == IPPROTO_UDP)
		keep_udp(ctx, k, c);
	else if (c->exit == EXIT_REDIRECT_WAYPOINT)
		keep_handoff(ctx, k, c);
	count(cpu, c->exit);
	if (!cfg_keep_peer || k->proto == IPPROTO_UDP)
		return;
	if (c->addr)
		keep_origin(ctx, cpu, k, c);
	else
		forget_origin(ctx);
}

/* finish is the program's return value for an exit other than a redirect. */
static __always_inline int finish(__u32 exit)
{
	if (exit == EXIT_PASS_NO_VIP || exit == EXIT_PASS_PASSTHROUGH)
		return 1;
	if (cfg_set_retval)
		bpf_set_retval(-ECONNREFUSED);
	return 0;
}

#endif
