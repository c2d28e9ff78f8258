/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a waypoint's process hears when it asks where a connection was going. */
#ifndef MESH_ANSWER_H
#define MESH_ANSWER_H

#include "handoff.h"

#define SOL_IP 0
#define SOL_IPV6 41
#define SO_ORIGINAL_DST 80

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

/*
 * How often at most a program looks for an answer that is being written: a
 * millisecond or some. The one that writes it is at work on another processor.
 */
#define ANSWER_LOOKS (1 << 16)

static long heard(__u64 look, struct bpf_sock **sk)
{
	return *sk && bpf_sk_storage_get(&answers, *sk, NULL, 0);
}

static __always_inline bool serves_socket(struct bpf_sockopt *ctx,
					  const struct bpf_sock *sk)
{
	__u64 cookie = bpf_get_netns_cookie(ctx);
	const __u32 *port = bpf_map_lookup_elem(&waypoints, &cookie);

	return port && *port == sk->src_port;
}

/*
 * await_answer is for MPTCP sockets at the hand-off port: accept() returns them as
 * soon as they are queued, which is before accept_handoff() has run.
 */
static __always_inline const struct destination *
await_answer(struct bpf_sockopt *ctx, struct bpf_sock *sk)
{
	if (!cfg_places || sk->protocol != IPPROTO_MPTCP ||
	    !serves_socket(ctx, sk))
		return NULL;
	bpf_loop(ANSWER_LOOKS, heard, &sk, 0);
	return sk ? bpf_sk_storage_get(&answers, sk, NULL, 0) : NULL;
}

/* find_answer is NULL where nothing was heard of where the client was going. */
static __always_inline const struct destination *
find_answer(struct bpf_sockopt *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	const struct destination *to;

	if (!sk)
		return NULL;
	to = bpf_sk_storage_get(&answers, sk, NULL, 0);
	if (!to)
		to = await_answer(ctx, sk);
	return to && to->port ? to : NULL;
}

/* answer_option is false where the kernel's own answer stands. */
static __always_inline bool answer_option(struct bpf_sockopt *ctx)
{
	int level = ctx->level, option = ctx->optname;
	const struct destination *to;

	if (level == SOL_IP && option == HANDOFF_VERSION_OPTION)
		return answer_version(ctx);
	if (option != SO_ORIGINAL_DST || (level != SOL_IP && level != SOL_IPV6))
		return false;
	to = find_answer(ctx);
	if (!to)
		return false;
	if (level == SOL_IPV6)
		return answer6(ctx, to);
	return is_v4(to->addr) && answer4(ctx, to);
}

#endif
