package admin

import (
	"time"

	"github.com/duomesh/duomesh/dataplane/agent/api"
	"github.com/duomesh/duomesh/dataplane/intent"
)

// Applied describes a Snapshot that the kernel has got just now.
func Applied(s intent.Snapshot, generation uint64, version string) api.Applied {
	a := api.Applied{
		Generation: generation, Version: version, At: time.Now(),
		Services: len(s.Services), Workloads: len(s.Workloads),
	}
	_, conflicts := s.Claims()
	for _, c := range conflicts {
		a.Conflicts = append(a.Conflicts, api.Conflict{Frontend: c.Frontend.String(), Services: c.Services})
	}
	return a
}
