package suite

import (
	"testing"

	. "github.com/onsi/ginkgo/v2"
)

func TestSuite(t *testing.T) { RunSpecs(t, "suite") }

func TestBeside(t *testing.T) {}

var _ = Describe("thing", func() {
	It("works", func() {})
	It("works too", func() {})
	It("breaks", func() { Fail("broken here") })
	It("cannot", func() { Skip("NOT RUN: no kernel") })
	PIt("will", func() {})
})
