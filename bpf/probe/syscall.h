/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What applications ask for, where no program can be attached to their cgroup:
 * read from the arguments of connect(2). Weaker than the cgroup program: the
 * memory is the application's and may change, io_uring and sendto(MSG_FASTOPEN) do
 * not pass here, and a socket that nobody asked for its cookie has none yet.
 */
#ifndef DUOMESH_PROBE_SYSCALL_H
#define DUOMESH_PROBE_SYSCALL_H

/* sock_of returns the socket behind a descriptor of the running task, or NULL. */
static __always_inline struct sock *sock_of(__u32 fd)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct fdtable *table = BPF_CORE_READ(task, files, fdt);
	struct file **slots, *file = NULL;
	struct socket *socket;

	if (fd >= BPF_CORE_READ(table, max_fds))
		return NULL;
	slots = BPF_CORE_READ(table, fd);
	bpf_probe_read_kernel(&file, sizeof(file), &slots[fd]);
	if (!file ||
	    (BPF_CORE_READ(file, f_inode, i_mode) & S_IFMT) != S_IFSOCK)
		return NULL;
	socket = BPF_CORE_READ(file, private_data);
	return BPF_CORE_READ(socket, sk);
}

/* set_asked: where IPv6 has its flow label, IPv4 has the address. */
static __always_inline void set_asked(struct event *e,
				      const struct sockaddr_in6 *to)
{
	if (to->sin6_family == AF_INET)
		map_v4(e->dst, to->sin6_flowinfo);
	else
		__builtin_memcpy(e->dst, &to->sin6_addr, sizeof(e->dst));
}

static __always_inline void syscall_asked(__u32 fd, const void *user)
{
	struct sock *sk = sock_of(fd);
	struct sockaddr_in6 to = {};
	struct event *e;
	__u64 netns;
	__u32 *pod;

	if (!sk || !judged(BPF_CORE_READ(sk, sk_protocol)))
		return;
	netns = netns_of(sk);
	pod = bpf_map_lookup_elem(&watched, &netns);
	if (!pod)
		return;
	/* IPv4 is the shorter one: family and port stand alike, the address
	 * where IPv6 has its flow label. */
	if (bpf_probe_read_user(&to, sizeof(to), user) &&
	    bpf_probe_read_user(&to, sizeof(struct sockaddr_in), user))
		return;
	if (to.sin6_family != AF_INET && to.sin6_family != AF_INET6)
		return;
	e = new_event(EVENT_ASKED, HOOK_SYSCALL, *pod);
	if (!e)
		return;
	e->sock = (__u64)sk;
	e->cookie = cookie_of(sk);
	e->protocol = BPF_CORE_READ(sk, sk_protocol);
	e->family = BPF_CORE_READ(sk, __sk_common.skc_family);
	e->dport = to.sin6_port;
	set_asked(e, &to);
	submit(e);
}

#endif
