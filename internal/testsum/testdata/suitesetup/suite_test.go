package suitesetup

import (
	"testing"

	. "github.com/onsi/ginkgo/v2"
)

func TestSuite(t *testing.T) { RunSpecs(t, "setup") }

var _ = BeforeSuite(func() { Fail("no ground to stand on") })

var _ = It("never starts", func() {})
