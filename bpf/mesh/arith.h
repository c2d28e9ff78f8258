/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Comparing and choosing without a branch. The verifier follows both ways of each
 * branch, and those of a loop over sixteen flows, or of a halving, are too many.
 * The barriers keep the compiler from making branches of it.
 */
#ifndef MESH_ARITH_H
#define MESH_ARITH_H

#include "abi.h"

/* is_zero is 1 for 0, else 0. */
static __always_inline __u64 is_zero(__u64 x)
{
	__u64 top = -x;

	barrier_var(top);
	top = (top | x) >> 63;
	barrier_var(top);
	return top ^ 1;
}

/* is_less is 1 where a < b, else 0. */
static __always_inline __u64 is_less(__u64 a, __u64 b)
{
	__u64 borrow;

	barrier_var(a);
	borrow = ((~a & b) | ((~a | b) & (a - b))) >> 63;
	barrier_var(borrow);
	return borrow;
}

/* either is a where first is 1, b where it is 0. */
static __always_inline __u64 either(__u64 first, __u64 a, __u64 b)
{
	return b ^ ((a ^ b) & -first);
}

#endif
