package suitedies

import (
	"syscall"
	"testing"

	. "github.com/onsi/ginkgo/v2"
)

func TestSuite(t *testing.T) { RunSpecs(t, "dies") }

var _ = It("dies", func() {
	_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
	select {}
})
