//go:build !amd64

package vmtest

func cycles() uint64 { return 0 }
