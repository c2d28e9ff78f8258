/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a CPU has for itself: counters and a random generator. */
#ifndef MESH_COUNT_H
#define MESH_COUNT_H

#include "maps.h"

static __always_inline struct cpu_state *this_cpu(void)
{
	__u32 only = 0;

	return bpf_map_lookup_elem(&cpus, &only);
}

/*
 * Atomic although the counter is this CPU's own: a program may be preempted by
 * another one in the middle of an addition.
 */
static __always_inline void count(struct cpu_state *cpu, __u32 exit)
{
	__sync_fetch_and_add(&cpu->exits[exit], 1);
}

/*
 * random64 is splitmix64 (Steele, Lea, Flood: OOPSLA 2014). The helper
 * bpf_get_prandom_u32 costs more than a map lookup, and two calls are needed.
 * Two runs that preempt each other may get the same number: no harm.
 */
static __always_inline __u64 random64(struct cpu_state *cpu)
{
	__u64 z = cpu->random;

	if (!z)
		z = (__u64)bpf_get_prandom_u32() << 32 | bpf_get_prandom_u32();
	z += 0x9e3779b97f4a7c15ULL;
	cpu->random = z;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ z >> 27) * 0x94d049bb133111ebULL;
	return z ^ z >> 31;
}

#endif
