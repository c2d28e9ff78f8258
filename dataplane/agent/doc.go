// Package agent is the node agent: it brings what a source declares to the
// node's engine, takes enrolments on a unix socket that only root reaches, and
// shows what it has on an admin API and as metrics. The engine's state is
// pinned: connections are redirected while no agent runs, and the next agent
// takes over.
//
// # The end of a pod
//
// An entry in the kernel is by network namespace cookie, a number that is never
// given twice, so an entry that stays too long can do nobody harm; but it takes a
// place. The agent holds the descriptor of an enrolled pod's namespace, which it
// needs to take the entry away, and lets go of it when the pod has left: by a
// message, or because its cgroup is gone. A cgroup is known by its ID, which is
// never given twice either: a pod that comes back under the same path and
// address is another pod, and not enrolled before somebody enrols it.
//
// A new agent knows the pods of the one before it from a file, and opens their
// namespaces again through a process of theirs. Where a pod has none, its entry
// stays until it leaves by a message or is enrolled again; Status shows it as not
// watched.
package agent
