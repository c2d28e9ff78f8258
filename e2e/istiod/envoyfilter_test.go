package istiod

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/duomesh/duomesh/netsim"
)

// listenerOf finds a listener in Envoy's dump of its configuration, nil when it has none
// of the name.
func listenerOf(dump []byte, name string) any {
	var all struct {
		Configs []struct {
			DynamicListeners []struct {
				Name        string
				ActiveState struct{ Listener any } `json:"active_state"`
			} `json:"dynamic_listeners"`
		}
	}
	if json.Unmarshal(dump, &all) != nil {
		return nil
	}
	for _, c := range all.Configs {
		for _, l := range c.DynamicListeners {
			if l.Name == name {
				return l.ActiveState.Listener
			}
		}
	}
	return nil
}

// What a real istiod makes of the samples for waypoints whose image is another's is in a
// golden file, and a stock Envoy takes it. DUOMESH_GOLDEN=write writes the file anew.
var _ = Describe("the samples of EnvoyFilters", Label(byWaypoint), func() {
	for _, form := range []string{"proxy-v2", "proxy-v2-before-1.27"} {
		It("reach a waypoint by "+form, func(ctx SpecContext) {
			golden := filepath.Join("testdata", "envoyfilter-proxy-v2.json")
			write := os.Getenv("DUOMESH_GOLDEN") == "write"
			if _, err := os.Stat(golden); err != nil && !write {
				Skip("NOT RUN: nothing has been recorded: DUOMESH_GOLDEN=write does")
			}
			c := through(ctx, netsim.Config{}, "waypoint")
			data, err := os.ReadFile(filepath.Join("..", "..", "samples", "envoyfilter", form+".yaml"))
			Expect(err).NotTo(HaveOccurred())
			// At another port: the waypoint of these specs has the sample's own.
			apply(ctx, c, strings.ReplaceAll(string(data), "15039", "15049"))
			var got any
			Eventually(ctx, func() any {
				got = listenerOf(must(c.WaypointConfig(ctx, "waypoint")), "duomesh-proxy-v2")
				return got
			}).WithTimeout(patience).ShouldNot(BeNil())
			Expect(must(c.WaypointStatus(ctx, "waypoint")).Source.Problem).To(BeEmpty())

			if write {
				text, err := json.MarshalIndent(got, "", "  ")
				Expect(err).NotTo(HaveOccurred())
				Expect(os.MkdirAll("testdata", 0o755)).To(Succeed())
				Expect(os.WriteFile(golden, append(text, '\n'), 0o600)).To(Succeed())
			}
			var want any
			text, err := os.ReadFile(golden)
			Expect(err).NotTo(HaveOccurred())
			Expect(json.Unmarshal(text, &want)).To(Succeed())
			Expect(got).To(Equal(want))
		}, SpecTimeout(4*time.Minute))
	}
})
