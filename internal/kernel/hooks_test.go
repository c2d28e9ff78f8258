package kernel

import (
	"errors"
	"testing"

	"github.com/cilium/ebpf"
)

// A verifier that complains of arguments knows the helper; one that says so does not.
func TestKnowsHelper(t *testing.T) {
	for text, want := range map[string]bool{
		"0: (85) call bpf_set_retval#187\nR1 is not a scalar":                  true,
		"0: (85) call unknown#999\ninvalid func unknown#999":                   false,
		"0: (85) call bpf_x#1\nprogram of this type cannot use helper bpf_x#1": false,
		"0: (85) call bpf_x#1\nunknown func bpf_x#1":                           false,
		"back-edge from insn 0 to 0":                                           false,
	} {
		err := &ebpf.VerifierError{Cause: errors.New("invalid argument"), Log: []string{text}}
		if knowsHelper(err) != want {
			t.Errorf("%q: %t, want %t", text, !want, want)
		}
	}
	if knowsHelper(errors.New("permission denied")) {
		t.Error("an error without a verifier's log")
	}
}
