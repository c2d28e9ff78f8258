// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Delays every TCP segment with data that leaves an interface by a known time, in
 * which it holds the processor: to see whether a comparison finds what is known.
 */
#include "vmlinux.h"
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define ETH_P_IP 0x0800
#define ETH_HLEN 14
#define TCX_NEXT (-1)

/* rounds bound the loop: each takes some 20 ns and more. */
#define ROUNDS (1 << 20)

const volatile __u64 delay_ns = 0;

char LICENSE[] SEC("license") = "Dual BSD/GPL";

static long wait(__u32 round, __u64 *until)
{
	return bpf_ktime_get_ns() >= *until;
}

/* has_data says whether there is more than headers in an IPv4 TCP packet. */
static __always_inline bool has_data(struct __sk_buff *skb)
{
	struct iphdr ip;
	struct tcphdr tcp;

	if (skb->protocol != bpf_htons(ETH_P_IP) ||
	    bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)) ||
	    ip.protocol != IPPROTO_TCP ||
	    bpf_skb_load_bytes(skb, ETH_HLEN + ip.ihl * 4, &tcp, sizeof(tcp)))
		return false;
	return bpf_ntohs(ip.tot_len) > ip.ihl * 4 + tcp.doff * 4;
}

SEC("tcx/egress")
int on_egress(struct __sk_buff *skb)
{
	__u64 until = bpf_ktime_get_ns() + delay_ns;

	if (has_data(skb))
		bpf_loop(ROUNDS, wait, &until, 0);
	return TCX_NEXT;
}
