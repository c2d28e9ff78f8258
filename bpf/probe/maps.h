/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#ifndef DUOMESH_PROBE_MAPS_H
#define DUOMESH_PROBE_MAPS_H

/* Sizes marked "set at load" are replaced by user space from its options. */

/* events: all kinds, in the order in which they were reserved. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096); /* set at load */
} events SEC(".maps");

/* watched: netns cookie -> pod number. Written and deleted by user space; what
 * is not in it is not looked at. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, __u32);
} watched SEC(".maps");

/* links: the interfaces whose packets are counted. Written and deleted by user
 * space. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 131072);
	__type(key, struct link_key);
	__type(value, struct link_value);
} links SEC(".maps");

/* classes: class of a traffic control filter -> the interface that has it, for
 * programs that cannot ask which one they run on. Written and deleted by user
 * space. A class has 16 bits. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65535);
	__type(key, __u32);
	__type(value, struct link_key);
} classes SEC(".maps");

/* wire: packets by link, direction and destination. Inserted by on_wire, never
 * deleted; preallocated, so that a burst of packets cannot fail to allocate. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024); /* set at load */
	__type(key, struct wire_key);
	__type(value, struct wire_value);
} wire SEC(".maps");

/* named: UDP destinations that are counted by their port whatever its number.
 * Written by user space. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct named_key);
	__type(value, __u8);
} named SEC(".maps");

/* ring_full: events that found no room in the ring, by enum event_kind. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, EVENT_KINDS);
	__type(key, enum event_kind);
	__type(value, __u64);
} ring_full SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, enum counter);
	__type(value, __u64);
} counters SEC(".maps");

/* taken: the change of state that the first copy of a program took last, by a
 * hash of its socket. Written by the first copy, cleared by the second; see
 * state.h. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, __u64);
} taken SEC(".maps");

static __always_inline void count(enum counter which)
{
	__u64 *n = bpf_map_lookup_elem(&counters, &which);

	if (n)
		__sync_fetch_and_add(n, 1);
}

/* new_event reserves an event, or counts that there was no room. */
static __always_inline struct event *new_event(enum event_kind kind,
					       enum hook hook, __u32 pod)
{
	struct event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);

	if (!e) {
		__u64 *n = bpf_map_lookup_elem(&ring_full, &kind);

		if (n)
			__sync_fetch_and_add(n, 1);
		return NULL;
	}
	__builtin_memset(e, 0, sizeof(*e));
	e->time_ns = bpf_ktime_get_ns();
	e->kind = kind;
	e->hook = hook;
	e->pod = pod;
	return e;
}

/* submit wakes nobody: the reader polls, a wake-up would cost more than all
 * the rest of the program. */
static __always_inline void submit(struct event *e)
{
	bpf_ringbuf_submit(e, BPF_RB_NO_WAKEUP);
}

static __always_inline void map_v4(__be32 to[4], __be32 from)
{
	to[0] = 0;
	to[1] = 0;
	to[2] = bpf_htonl(0xffff);
	to[3] = from;
}

#endif
