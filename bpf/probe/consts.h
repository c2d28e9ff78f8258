/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Constants that are macros in the kernel, and so are not in its BTF. */
#ifndef DUOMESH_PROBE_CONSTS_H
#define DUOMESH_PROBE_CONSTS_H

#define AF_INET 2
#define AF_INET6 10
#define S_IFMT 00170000
#define S_IFSOCK 0140000
#define IPPROTO_ICMPV6 58
#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd
#define IP_OFFSET 0x1fff /* fragment offset part of frag_off */
#define TCP_FLAG_SYN_BYTE 0x02
#define TCP_FLAG_RST_BYTE 0x04
#define TCP_FLAG_ACK_BYTE 0x10

#endif
