package admin

import (
	"errors"
	"testing"

	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/dataplane/intent"
)

func TestPodNamed(t *testing.T) {
	pods := []api.Pod{{Name: "a/web"}, {Name: "a/db"}}
	workloads := []*intent.Workload{{Namespace: "a", Name: "db"}, {Namespace: "b", Name: "web"}, {Namespace: "b", Name: "job"}}
	for _, c := range []struct {
		name, full string
		enrolled   bool
		bad        bool
	}{
		{"a/web", "a/web", true, false},
		{"db", "a/db", true, false},
		{"job", "b/job", false, false},
		{"b/web", "b/web", false, false},
		{"web", "", false, true},
		{"nobody", "nobody", false, false},
	} {
		full, enrolled, err := podNamed(pods, workloads, c.name)
		var bad api.BadRequestError
		if full != c.full || enrolled != c.enrolled || errors.As(err, &bad) != c.bad {
			t.Errorf("%s: %q, enrolled %v, %v", c.name, full, enrolled, err)
		}
	}
}
