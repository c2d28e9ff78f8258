package kind

import (
	"errors"
	"slices"
	"testing"

	"github.com/duomesh/duomesh/internal/scenario"
)

// elsewhere are the named scenarios that no cluster can have. A scenario that is added
// to them, or taken out, is so on purpose: docs/scenarios.md says why.
var elsewhere = []string{
	"addresses/several/25-25-50",
	"agent/churn-and-kills/100000",
	"baseline/dnat-udp/90-10",
	"baseline/dnat/90-10",
	"baseline/no-mesh/500",
	"clusterip/one-family-each/50-50",
	"locality/failover/levels",
	"locality/strict/scopes",
	"udp/churn-and-kills/100000",
	"udp/undeclared-port/500",
}

func TestWhichScenariosAreNetsimsAlone(t *testing.T) {
	var got []string
	for _, s := range scenario.All() {
		err := Expressible(s)
		if err != nil && !errors.Is(err, scenario.ErrNotExpressible) {
			t.Errorf("%s: %v", s.Name, err)
		}
		if err != nil {
			t.Logf("%s: %v", s.Name, err)
			got = append(got, s.Name)
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, elsewhere) {
		t.Errorf("no cluster can have %v, want %v", got, elsewhere)
	}
}
