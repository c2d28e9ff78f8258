/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Constants that user space sets before load; the verifier drops dead code. */
#ifndef MESH_CONFIG_H
#define MESH_CONFIG_H

#include "abi.h"

/* Keep what a socket asked for, so that getpeername can answer it. */
volatile const bool cfg_keep_peer = true;

/*
 * The kernel has bpf_skc_to_mptcp_sock (5.19, with BTF). Without it a place that
 * an MPTCP subflow took would never be given back: origins is not used, and
 * getpeername of an MPTCP socket answers its endpoint.
 */
volatile const bool cfg_places = true;

/* The kernel has bpf_set_retval (5.18): refuse with ECONNREFUSED, not EPERM. */
volatile const bool cfg_set_retval = true;

/* Halvings enough for the size of slots: the verifier follows each. */
volatile const __u32 cfg_halvings = 32;

/*
 * Where struct tcp_sock of this kernel has what tells Fast Open: a pointer that is
 * set while MSG_FASTOPEN connects, and the byte and bit of TCP_FASTOPEN_CONNECT. 0
 * where the kernel does not tell.
 */
volatile const __u32 cfg_fast_message = 0;
volatile const __u32 cfg_fast_connect = 0;
volatile const __u8 cfg_fast_connect_bit = 0;

/* Where the state of an MPTCP socket is; 0 where the kernel does not tell. */
volatile const __u32 cfg_mptcp_state = 0;

/* Not read by the programs: makes the types part of the object's. */
volatile const enum mesh_abi cfg_abi = MESH_ABI;
volatile const enum mesh_exit cfg_exit = 0;
volatile const enum frontend_flag cfg_frontend_flag = 0;
volatile const enum mesh_size cfg_size = 0;
volatile const enum mesh_handoff cfg_handoff = 0;
volatile const struct prepared cfg_prepared = {};

#endif
