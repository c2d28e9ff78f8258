/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Layout of everything that user space reads or writes. A change of any struct,
 * of an enum's order or of a meaning needs a new MESH_ABI.
 *
 * Addresses are 16 bytes in network byte order, IPv4 as ::ffff:a.b.c.d
 * (RFC 4291, 2.5.5.2). Ports are in network byte order.
 */
#ifndef MESH_ABI_H
#define MESH_ABI_H

#define BPF_NO_PRESERVE_ACCESS_INDEX /* UAPI only: must load without BTF */
#include "vmlinux.h"
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define AF_INET 2
#define AF_INET6 10

/* One load, for what another CPU may be writing. */
#define READ_ONCE(x) (*(const volatile typeof(x) *)&(x))

enum mesh_abi {
	MESH_ABI = 4,
};

/* What a connection's run ended with. */
enum mesh_exit {
	EXIT_PASS_UNMANAGED,
	EXIT_PASS_PROTOCOL,
	EXIT_PASS_NO_VIP,
	EXIT_PASS_PASSTHROUGH,
	EXIT_REDIRECT,
	EXIT_REDIRECT_WAYPOINT,
	EXIT_REFUSE_NO_WAYPOINT,
	EXIT_REFUSE_NO_ENDPOINT,
	EXIT_REFUSE_NO_PORT,
	EXIT_REFUSE_POLICY,
	/* No slot where the frontend said that there is one, twice. */
	EXIT_REFUSE_SLOT_MISS,
	/* No memory for what was asked: nobody could tell a reply or a waypoint. */
	EXIT_REFUSE_NO_FLOW,
	/*
	 * The waypoint is told by a header in front of the first bytes, and nobody
	 * could put one there: MPTCP, Fast Open.
	 */
	EXIT_REFUSE_CODEC,
	/* Events, counted beside the exit of the same run: */
	/* a frontend was read again, */
	EVENT_RETRY,
	/* a redirect whose asked address could not be kept, */
	EVENT_ORIGIN_LOST,
	/* a flow that made room for another one of its socket, */
	EVENT_FLOW_EVICTED,
	/* one socket that asked two addresses and got one endpoint for both. */
	EVENT_FLOW_SHARED,
	/* Of the client's end of a hand-off, once for each connection: */
	/* the address or its id has left in the SYN, or found no room there; */
	EVENT_HANDOFF_FULL,
	EVENT_HANDOFF_SHORT,
	EVENT_HANDOFF_UNSENT,
	/* the waypoint asked to have it again, having kept no SYN. */
	EVENT_HANDOFF_RESENT,
	/* Where a header tells, also of the client's end: it has been written, */
	EVENT_HANDOFF_HEADER,
	/* or bytes left before it could be, */
	EVENT_HANDOFF_EARLY,
	/* or there never were any, */
	EVENT_HANDOFF_SILENT,
	/* or there was no room for the socket in unsent, or no memory, */
	EVENT_HANDOFF_UNWRITTEN,
	/* Of either kind: the waypoint refused the connection, or did not answer. */
	EVENT_HANDOFF_UNREACHED,
	/* Of the waypoint's end, once for each connection: */
	/* SO_ORIGINAL_DST is answered, */
	EVENT_HANDOFF_ANSWERED,
	/* or not: nothing came with the connection, */
	EVENT_HANDOFF_NO_ANSWER,
	/* an id that leads to no address, */
	EVENT_HANDOFF_UNKNOWN_ID,
	/* no memory. */
	EVENT_HANDOFF_LOST,
	MESH_EXITS,
};

enum frontend_flag {
	/* An address of a service, at port 0: other ports are refused. */
	FRONTEND_ADDR_ONLY = 1,
	/* Leave the connection as it was asked for. */
	FRONTEND_PASSTHROUGH = 2,
	/*
	 * The slots are replicas of a waypoint. At port 0: of a workload's address,
	 * whatever the port.
	 */
	FRONTEND_WAYPOINT = 4,
	/* A policy that nobody enforces names who is behind it. */
	FRONTEND_REFUSE = 8,
	/* With FRONTEND_WAYPOINT: what tells it is a header, PROXY v2 or Kmesh's. */
	FRONTEND_PROXY_V2 = 16,
	FRONTEND_KMESH_TLV = 32,
};

struct frontend_key {
	__be32 addr[4];
	__be16 port;
	__u8 proto; /* IPPROTO_TCP, also for MPTCP, or IPPROTO_UDP */
	__u8 pad[5]; /* always 0: hash keys are compared as bytes, fast by eight */
};
_Static_assert(sizeof(struct frontend_key) == 24, "frontend_key is ABI");

/*
 * The kernel reuses the memory of a replaced hash element at once (since 6.1),
 * so a program may read a value while it is being overwritten with another
 * frontend's. check binds all words of the value to each other and to the key:
 * see frontend_check().
 */
struct frontend {
	__u32 set;	    /* index of the first slot of its set */
	__u32 generation;   /* of the set: what all its slots say */
	__u32 slots;	    /* how many; 0: no endpoint */
	__be16 target_port; /* 0: each slot has its own */
	__u16 flags;	    /* enum frontend_flag */
	__u32 id;	    /* of the address and port in a hand-off; 0: none */
	__u32 pad;
	__u64 check;
};
_Static_assert(sizeof(struct frontend) == 32, "frontend is ABI");

/*
 * One column of an alias table (Vose 1991): the first outcome with probability
 * threshold / 2^32, else the second. "Always" is two equal outcomes. The first
 * outcomes of a set are its endpoints in ascending order: see is_member().
 */
struct slot {
	__be32 first[4];
	__be32 second[4];
	__be16 first_port; /* 0: the frontend's target_port */
	__be16 second_port;
	__u32 threshold;
	__u32 generation; /* never 0 in a set */
	__u32 pad;
};
_Static_assert(sizeof(struct slot) == 48, "slot is ABI");

/* What a redirected socket asked for, and where it was sent. */
struct origin {
	__be32 asked[4];
	__be32 target[4];
	__be16 asked_port;
	__be16 target_port;
};
_Static_assert(sizeof(struct origin) == 36, "origin is ABI");

/* How far the hand-off of a client's socket has come. */
enum handoff_state {
	HANDOFF_ASKED,	    /* connect() was decided */
	HANDOFF_CONNECTING, /* the same connect() makes its SYN */
	HANDOFF_SENT,	    /* a SYN has left */
	HANDOFF_AGAIN, /* the waypoint wants it in the packets that follow */
	/* Of a header: */
	HANDOFF_UNSENT, /* it waits for the first bytes, the socket is in unsent */
	HANDOFF_WRITTEN, /* it is in front of them */
	HANDOFF_MISSED,	 /* it is not, and cannot be any more */
};

/* What a socket that goes to a waypoint asked for, for its SYN or its header. */
struct handoff {
	struct origin origin;
	__u32 id;    /* of the frontend */
	__u16 state; /* enum handoff_state */
	__u16 codec; /* enum frontend_flag: that of a header, 0: an option */
};
_Static_assert(sizeof(struct handoff) == 44, "handoff is ABI");

/* Where a connection was going that a waypoint has accepted. */
struct destination {
	__be32 addr[4];
	__be16 port;
	__u8 pad[2];
};
_Static_assert(sizeof(struct destination) == 20, "destination is ABI");

/* What an id stands for. check binds the words, as in struct frontend. */
struct name {
	struct destination to;
	__u32 pad;
	__u64 check;
};
_Static_assert(sizeof(struct name) == 32, "name is ABI");

/* What mesh_prepare writes for each listener of a waypoint that it found. */
struct prepared {
	__s32 save_syn; /* what bpf_setsockopt returned */
	__s32 callbacks;
	__u16 family;
	__u16 port; /* host byte order */
};
_Static_assert(sizeof(struct prepared) == 12, "prepared is ABI");

/* A place for the origin of one socket, by the low bits of its cookie. */
struct origin_place {
	__u64 cookie; /* 0: free */
	struct origin origin;
	__u32 pad;
};
_Static_assert(sizeof(struct origin_place) == 48, "origin_place is ABI");

enum mesh_size {
	POD_PLACES = 1 << 15,
	ORIGIN_PLACES = 1 << 13,
	FLOWS = 16,
};

/*
 * Where the datagrams of one UDP socket to one address go. An address that is
 * asked for itself has itself as target.
 */
struct flow {
	__be32 asked[4];
	__be32 target[4];
	__be16 asked_port; /* 0: no flow */
	__be16 target_port;
	__u32 generation; /* of the set in which target was last found */
	/*
	 * Clock of the socket at the last datagram. Of the connected flow: how often
	 * it was found pending, see end.h.
	 */
	__u32 used;
};
_Static_assert(sizeof(struct flow) == 44, "flow is ABI");

/* What one UDP socket asked for. Used under the socket's lock only. */
struct flows {
	__u32 clock; /* counts datagrams */
	__u32 last;  /* index of the flow used last */
	struct flow connected;
	struct flow sent[FLOWS];
};
_Static_assert(sizeof(struct flows) == 756, "flows is ABI");

/* A flow that is no more in its socket's flows, by what its replies show. */
struct late_key {
	__u64 cookie;
	__be32 target[4];
	__be16 target_port;
	__u8 pad[6]; /* always 0 */
};
_Static_assert(sizeof(struct late_key) == 32, "late_key is ABI");

struct late {
	__be32 asked[4];
	__be16 asked_port;
	__u8 pad[2];
};
_Static_assert(sizeof(struct late) == 20, "late is ABI");

/* The hand-off: see package dataplane/handoff, which has the same. */
enum mesh_handoff {
	HANDOFF_VERSION = 1,
	HANDOFF_VERSION_OPTION = 0x646d,
};

/* In pods: several enrolled pods share the place, ask managed. */
#define POD_PLACE_SHARED (~0ULL)

/* What each CPU has for itself. */
struct cpu_state {
	__u64 exits[MESH_EXITS]; /* by enum mesh_exit: how often */
	__u64 random; /* state of the generator, 0 before its first use */
};
_Static_assert(sizeof(struct cpu_state) == 248, "cpu_state is ABI");

#endif
