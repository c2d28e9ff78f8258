/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * All maps of engine 1. User space sets max_entries from its limits and owns
 * every entry, except where said otherwise.
 */
#ifndef MESH_MAPS_H
#define MESH_MAPS_H

#include "abi.h"

/* managed: netns cookie -> flags, none defined yet. Absent: not enrolled. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, __u64);
	__type(value, __u32);
} managed SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, struct frontend_key);
	__type(value, struct frontend);
} frontends SEC(".maps");

/*
 * flips: one element, above 0 from before the first frontend of a plan is
 * replaced or removed until a grace period after the last. See find_frontend().
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} flips SEC(".maps");

/*
 * slots: a set is a range of them. User space writes a range before a frontend
 * names it, and writes it again only a grace period after none does. An array
 * takes a sixth of the time of a hash.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct slot);
} slots SEC(".maps");

/*
 * pods: low bits of a netns cookie -> the one managed cookie that has them, 0
 * or POD_PLACE_SHARED. It answers what managed would, at a tenth of the time.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, POD_PLACES);
	__type(key, __u32);
	__type(value, __u64);
} pods SEC(".maps");

/* cpus: one element, written by the programs. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cpu_state);
} cpus SEC(".maps");

/*
 * origins: taken by connect, given back when the socket is released. A place
 * that is taken sends the next socket to spilled.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, ORIGIN_PLACES);
	__type(key, __u32);
	__type(value, struct origin_place);
} origins SEC(".maps");

/* spilled: written by connect, freed with the socket. Ten times as slow. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct origin);
} spilled SEC(".maps");

/* handoffs: of sockets that go to a waypoint, written by connect and sockops. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct handoff);
} handoffs SEC(".maps");

/*
 * unsent: sockets that are to write a header, by their cookies, from when they are
 * established until their first bytes. Only there if a waypoint wants headers.
 */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 1);
	__type(key, __u64);
	__type(value, __u64);
} unsent SEC(".maps");

/* answers: of sockets that a waypoint accepted, written by sockops. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct destination);
} answers SEC(".maps");

/* waypoints: netns cookie of a waypoint of this node -> its hand-off port. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, __u64);
	__type(value, __u32);
} waypoints SEC(".maps");

/* names: the ids of frontends with a waypoint. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct name);
} names SEC(".maps");

/* udp_flows: of UDP sockets, written by connect and sendmsg, freed with the socket. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct flows);
} udp_flows SEC(".maps");

/*
 * lates: written by connect and sendmsg. A socket that sends to more than FLOWS
 * addresses, or whose endpoint went, may still have a reply on the way.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1);
	__type(key, struct late_key);
	__type(value, struct late);
} lates SEC(".maps");

#endif
