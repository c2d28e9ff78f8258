// Package follow turns what the kernel saw of threads and system calls into where the
// time of one request went. It does no I/O.
package follow
