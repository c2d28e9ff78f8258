// Package vmtest boots kernels in QEMU and runs this module's programs in them.
//
// A matrix (kernels.yaml) names the kernels, where they come from and what each
// of them promises. Each machine gets a file system of its own, written here:
// an init, the modules that are needed, the programs and their arguments. It
// sends records back over a serial port. A machine that panics, hangs, or ends
// without having said that it is done has failed.
package vmtest
