/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The decision at connect(), shared by both address families. */
#ifndef MESH_DECIDE_H
#define MESH_DECIDE_H

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

static __always_inline bool is_tcp(struct bpf_sock_addr *ctx)
{
	return ctx->protocol == IPPROTO_TCP || ctx->protocol == IPPROTO_MPTCP;
}

/* untouched returns the exit of a connection that is none of ours, or -1. */
static __always_inline int untouched(struct bpf_sock_addr *ctx)
{
	if (!is_managed(ctx))
		return EXIT_PASS_UNMANAGED;
	if (!is_tcp(ctx))
		return EXIT_PASS_PROTOCOL;
	return -1;
}

/* decide counts the exit. Where c->addr is set the caller must write it. */
static __always_inline void decide(struct bpf_sock_addr *ctx,
				   struct cpu_state *cpu,
				   const struct frontend_key *k,
				   struct choice *c)
{
	choose(cpu, k, c);
	count(cpu, c->exit);
	if (!cfg_keep_peer)
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
