/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Reads of kernel packets, each relocated at load (CO-RE). */
#ifndef DUOMESH_PROBE_PACKET_H
#define DUOMESH_PROBE_PACKET_H

static __always_inline void map4(__be32 to[4], __be32 from)
{
	to[0] = 0;
	to[1] = 0;
	to[2] = bpf_htonl(0xffff);
	to[3] = from;
}

/* pod_of_netns is NULL for a namespace that nobody watches. */
static __always_inline __u32 *pod_of_netns(__u64 netns)
{
	return bpf_map_lookup_elem(&watched, &netns);
}

/* pod_of finds whose packet it is: by the namespace of its interface, or by the
 * interface itself, or, before it has one, by its socket. */
static __always_inline __u32 *pod_of(const struct sk_buff *skb)
{
	const struct net_device *dev = BPF_CORE_READ(skb, dev);
	const struct sock *sk = BPF_CORE_READ(skb, sk);
	struct trace_link key = {};
	__u32 *pod;

	if (!dev)
		return sk ? pod_of_netns(netns_of(sk)) : NULL;
	key.netns = BPF_CORE_READ(dev, nd_net.net, net_cookie);
	key.ifindex = BPF_CORE_READ(dev, ifindex);
	pod = pod_of_netns(key.netns);
	return pod ? pod : bpf_map_lookup_elem(&links, &key);
}

/* read_transport fills ports and flags from the header at at. */
static __always_inline void read_transport(struct sighting *e, const void *at)
{
	struct tcphdr tcp = {};

	if (e->protocol != IPPROTO_TCP && e->protocol != IPPROTO_UDP)
		return;
	bpf_probe_read_kernel(&tcp, sizeof(struct udphdr), at);
	e->sport = tcp.source;
	e->dport = tcp.dest;
	if (e->protocol == IPPROTO_TCP)
		bpf_probe_read_kernel(&e->flags, sizeof(e->flags), at + 13);
}

/* read_packet fills the addresses of e; false: no IP packet. */
static __always_inline bool read_packet(struct sighting *e,
					const struct sk_buff *skb)
{
	const void *at = (const void *)BPF_CORE_READ(skb, head) +
			 BPF_CORE_READ(skb, network_header);
	struct ipv6hdr ip6 = {};
	struct iphdr ip = {};

	if (bpf_probe_read_kernel(&ip, sizeof(ip), at))
		return false;
	if (BPF_CORE_READ(skb, protocol) == bpf_htons(ETH_P_IPV6) ||
	    ip.version == 6) {
		if (bpf_probe_read_kernel(&ip6, sizeof(ip6), at))
			return false;
		__builtin_memcpy(e->src, &ip6.saddr, sizeof(e->src));
		__builtin_memcpy(e->dst, &ip6.daddr, sizeof(e->dst));
		e->protocol = ip6.nexthdr;
		read_transport(e, at + sizeof(ip6));
		return true;
	}
	if (ip.version != 4)
		return false;
	map4(e->src, ip.saddr);
	map4(e->dst, ip.daddr);
	e->protocol = ip.protocol;
	if (!(ip.frag_off & bpf_htons(IP_OFFSET)))
		read_transport(e, at + ip.ihl * 4);
	return true;
}

#endif
