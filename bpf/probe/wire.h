/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What passes the interfaces of a pod. Packets are never changed nor stopped. */
#ifndef DUOMESH_PROBE_WIRE_H
#define DUOMESH_PROBE_WIRE_H

/* A kernel that lacks it has no tcx either. */
extern void *bpf_cast_to_kern_ctx(void *ctx) __ksym;

/* What of a packet matters here. */
struct packet {
	__be32 src[4];
	__be32 dst[4];
	__be16 sport;
	__be16 dport;
	__u32 seq; /* TCP, host order */
	__u8 protocol;
	bool ports; /* sport and dport were read */
	bool syn;   /* SYN without ACK */
};

struct ports {
	__be16 src;
	__be16 dst;
};

/* link_of finds the link in the namespace of the interface itself. The helper
 * bpf_get_netns_cookie would answer with the initial namespace on ingress, where
 * a packet has no socket. */
static __always_inline struct link_value *link_of(struct __sk_buff *skb)
{
	struct sk_buff *kernel = bpf_cast_to_kern_ctx(skb);
	struct link_key key = {
		.netns = BPF_CORE_READ(kernel, dev, nd_net.net, net_cookie),
		.ifindex = skb->ifindex,
	};

	return bpf_map_lookup_elem(&links, &key);
}

static __always_inline bool load(struct __sk_buff *skb, __u32 off, void *to,
				 __u32 len)
{
	return !bpf_skb_load_bytes_relative(skb, off, to, len,
					    BPF_HDR_START_NET);
}

/* read_ports fills the rest of p from the header at off. */
static __always_inline void read_ports(struct __sk_buff *skb, __u32 off,
				       struct packet *p)
{
	struct ports ports;
	struct {
		__be32 seq;
		__be32 ack;
		__u8 offset;
		__u8 flags;
	} tcp;

	if (p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_UDP)
		return;
	if (!load(skb, off, &ports, sizeof(ports)))
		return;
	if (p->protocol == IPPROTO_TCP) {
		if (!load(skb, off + sizeof(ports), &tcp, 10))
			return;
		p->seq = bpf_ntohl(tcp.seq);
		p->syn = (tcp.flags & TCP_FLAG_SYN_BYTE) &&
			 !(tcp.flags & TCP_FLAG_ACK_BYTE);
	}
	p->sport = ports.src;
	p->dport = ports.dst;
	p->ports = true;
}

static __always_inline bool parse4(struct __sk_buff *skb, struct packet *p)
{
	struct iphdr ip;

	if (!load(skb, 0, &ip, sizeof(ip)))
		return false;
	map_v4(p->src, ip.saddr);
	map_v4(p->dst, ip.daddr);
	p->protocol = ip.protocol;
	if (!(ip.frag_off & bpf_htons(IP_OFFSET)))
		read_ports(skb, ip.ihl * 4, p);
	return true;
}

static __always_inline bool parse6(struct __sk_buff *skb, struct packet *p)
{
	struct ipv6hdr ip;

	if (!load(skb, 0, &ip, sizeof(ip)))
		return false;
	__builtin_memcpy(p->src, &ip.saddr, sizeof(p->src));
	__builtin_memcpy(p->dst, &ip.daddr, sizeof(p->dst));
	p->protocol = ip.nexthdr;
	read_ports(skb, sizeof(ip), p);
	return true;
}

/* has_no_ports: an IP payload that is whole without ports. Everything else that
 * has none was cut, is a later fragment or hides behind an extension header. */
static __always_inline bool has_no_ports(__u8 protocol)
{
	return protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6;
}

/* The lowest port that Linux picks by itself (net.ipv4.ip_local_port_range), as
 * long as nobody changed it. */
#define EPHEMERAL_PORT 32768

static __always_inline bool is_named(const struct packet *p)
{
	struct named_key key = { .dport = p->dport };

	__builtin_memcpy(key.dst, p->dst, sizeof(key.dst));
	return bpf_map_lookup_elem(&named, &key);
}

/* is_reply guesses whether a packet goes back to a client: not to a port that a
 * SYN opened on this link, not to a UDP port that is somebody's by name. */
static __always_inline bool is_reply(const struct packet *p)
{
	switch (p->protocol) {
	case IPPROTO_TCP:
		return !p->syn;
	case IPPROTO_UDP:
		return bpf_ntohs(p->dport) >= EPHEMERAL_PORT && !is_named(p);
	}
	return false;
}

/* wire_entry finds the counters of a packet's destination, or makes them.
 *
 * Replies go to as many ports as there are connections. So that they do not fill
 * the map, they count under port 0 of their address, unless the port has an entry
 * already. The sum over an address is exact. */
static __always_inline struct wire_value *wire_entry(struct wire_key *key,
						     const struct packet *p)
{
	const struct wire_value zero = {};
	struct wire_value *v = bpf_map_lookup_elem(&wire, key);

	if (v)
		return v;
	if (key->dport && is_reply(p)) {
		key->dport = 0;
		v = bpf_map_lookup_elem(&wire, key);
		if (v)
			return v;
	}
	bpf_map_update_elem(&wire, key, &zero, BPF_NOEXIST);
	return bpf_map_lookup_elem(&wire, key);
}

static __always_inline void count_packet(struct __sk_buff *skb,
					 struct link_value *link,
					 const struct packet *p, enum hook hook)
{
	struct link_total *total = hook == HOOK_EGRESS ? &link->egress
						       : &link->ingress;
	struct wire_key key = {
		.link = link->link,
		.dport = p->dport,
		.protocol = p->protocol,
		.hook = hook,
	};
	struct wire_value *v;
	__u32 segments = skb->gso_segs ? skb->gso_segs : 1;

	__builtin_memcpy(key.dst, p->dst, sizeof(key.dst));
	if (!p->ports && !has_no_ports(p->protocol))
		count(COUNTER_UNPARSED);
	v = wire_entry(&key, p);
	if (!v) {
		count(COUNTER_WIRE_FULL);
		return;
	}
	__sync_fetch_and_add(&total->begun, segments);
	__sync_fetch_and_add(&v->packets, segments);
	if (p->syn)
		__sync_fetch_and_add(&v->syns, 1);
	__sync_fetch_and_add(&total->done, segments);
}

static __always_inline void report_syn(struct __sk_buff *skb,
				       const struct link_value *link,
				       const struct packet *p, enum hook hook)
{
	struct event *e = new_event(EVENT_WIRE_SYN, hook, link->pod);

	if (!e)
		return;
	e->cookie = bpf_get_socket_cookie(skb);
	__builtin_memcpy(e->src, p->src, sizeof(e->src));
	__builtin_memcpy(e->dst, p->dst, sizeof(e->dst));
	e->sport = p->sport;
	e->dport = p->dport;
	e->isn = p->seq;
	e->link = link->link;
	e->protocol = p->protocol;
	submit(e);
}

/* class_link_of finds the link by the class of the filter that runs: the kernel
 * puts it there before each program (net/sched/cls_bpf.c). */
static __always_inline struct link_value *class_link_of(struct __sk_buff *skb)
{
	__u32 class = skb->tc_classid;
	struct link_key *key = bpf_map_lookup_elem(&classes, &class);

	return key ? bpf_map_lookup_elem(&links, key) : NULL;
}

static __always_inline int on_wire(struct __sk_buff *skb,
				   struct link_value *link, enum hook hook)
{
	struct packet p = {};
	bool ok;

	if (!link)
		return TCX_NEXT;
	switch (skb->protocol) {
	case bpf_htons(ETH_P_IP):
		ok = parse4(skb, &p);
		break;
	case bpf_htons(ETH_P_IPV6):
		ok = parse6(skb, &p);
		break;
	default:
		return TCX_NEXT;
	}
	if (!ok) {
		count(COUNTER_UNPARSED);
		return TCX_NEXT;
	}
	count_packet(skb, link, &p, hook);
	if (p.syn)
		report_syn(skb, link, &p, hook);
	return TCX_NEXT;
}

#endif
