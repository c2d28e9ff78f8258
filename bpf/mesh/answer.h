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
