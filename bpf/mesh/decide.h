/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The decisions at connect() and sendmsg(), shared by both address families. */
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

/* pass is for a connect() that is none of ours: what the socket asked before ends. */
static __always_inline int pass(struct bpf_sock_addr *ctx,
				struct cpu_state *cpu,
				const struct frontend_key *k, int exit)
{
	count(cpu, exit);
	if (k->proto == IPPROTO_UDP)
		forget_connected(ctx, k);
	return 1;
}

/*
 * keep_udp leaves a refused socket as it is: it stays connected to what it was, since
 * the kernel has not begun.
 */
static __always_inline void keep_udp(struct bpf_sock_addr *ctx,
				     const struct frontend_key *k,
				     struct choice *c)
{
	if (c->exit <= EXIT_PASS_PASSTHROUGH) {
		forget_connected(ctx, k);
	} else if (c->addr && !keep_connected(ctx, k, c)) {
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
	else if (cfg_keep_peer && c->addr)
		keep_origin(ctx, cpu, k, c);
	else if (cfg_keep_peer)
		forget_origin(ctx, k, c);
	if (c->exit == EXIT_REDIRECT_WAYPOINT)
		keep_handoff(ctx, k, c);
	count(cpu, c->exit);
}

/*
 * is_to_peer is true for a datagram to where the socket is connected: connect()
 * has decided. Only an IPv6 socket that is connected to an IPv4 address gets here
 * without an address of the application's own.
 */
static __always_inline bool is_to_peer(struct bpf_sock_addr *ctx)
{
	const __be32 addr[4] = { 0, 0, bpf_htonl(0xffff), ctx->user_ip4 };

	return is_peer(ctx->sk, addr, ctx->user_port);
}

/* finish is the program's return value for an exit other than a redirect. */
static __always_inline int finish(__u32 exit)
{
	if (exit <= EXIT_PASS_PASSTHROUGH)
		return 1;
	if (cfg_set_retval)
		bpf_set_retval(-ECONNREFUSED);
	return 0;
}

/*
 * decide_send counts the exit and returns the program's value. Where c->addr is set
 * the caller must write it.
 */
static __always_inline int decide_send(struct bpf_sock_addr *ctx,
				       struct cpu_state *cpu,
				       const struct frontend_key *k,
				       struct choice *c)
{
	int exit = untouched(ctx, protocol(ctx));
	struct frontend f;

	if (exit < 0)
		exit = find_settled(cpu, k, &f);
	if (exit <= EXIT_PASS_PASSTHROUGH) {
		count(cpu, exit);
		sent_directly(ctx, cpu, k);
		return 1;
	}
	c->exit = exit;
	if (exit == EXIT_REDIRECT)
		use_flow(ctx, cpu, k, &f, c);
	if (c->exit == EVENT_RETRY)
		c->exit = EXIT_REFUSE_SLOT_MISS;
	count(cpu, c->exit);
	return c->addr ? 1 : finish(c->exit);
}

#endif
