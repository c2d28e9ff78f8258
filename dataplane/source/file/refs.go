package file

import (
	"strconv"
	"strings"

	"github.com/duomesh/duomesh/dataplane/intent"
	"github.com/duomesh/duomesh/internal/strictyaml"
)

// workload resolves a reference: the UID of a workload, else its
// namespace/name, else its name in the namespace of what refers to it.
func (b *builder) workload(path, ref, namespace string, at position) *intent.Workload {
	if ref == "" {
		return nil // already complained about
	}
	if w := b.workloads[ref]; w != nil {
		return w
	}
	key := ref
	if !strings.Contains(ref, "/") {
		key = namespace + "/" + ref
	}
	switch found := b.named[key]; len(found) {
	case 1:
		return found[0]
	case 0:
		b.Add(at, "%s: no workload has the uid %s, none is named %s", path, strictyaml.Shorten(ref), strictyaml.Shorten(key))
	default:
		b.Add(at, "%s: %d workloads are named %s, write the uid of one", path, len(found), strictyaml.Shorten(key))
	}
	return nil
}

// waypoint resolves a reference by name; an empty one is none.
func (b *builder) waypoint(path, ref string, at position) *intent.Waypoint {
	if ref == "" {
		return nil
	}
	w := b.waypoints[ref]
	if w == nil {
		b.Add(at, "%s: no waypoint is named %s", path, strictyaml.Shorten(ref))
	}
	return w
}

// service resolves a service's key, or its name in the default namespace, to
// its key.
func (b *builder) service(path, ref string, at position) string {
	key := ref
	if !strings.Contains(ref, "/") {
		key = defaultNamespace + "/" + ref
	}
	if ref != "" && b.services[key] == nil {
		b.Add(at, "%s: there is no service %s", path, strictyaml.Shorten(key))
	}
	return key
}

// register complains of the second of two things of one kind and name. Its
// zero value with kind and problems set is ready for use.
type register struct {
	kind string
	*problems
	first map[string]position
}

func (r *register) add(path, name string, at position) {
	if name == "" {
		return // already complained about
	}
	first, twice := r.first[name]
	if !twice {
		if r.first == nil {
			r.first = map[string]position{}
		}
		r.first[name] = at
		return
	}
	if first.Line == 0 {
		r.Add(at, "%s: %s %s is declared twice", path, r.kind, strictyaml.Shorten(name))
		return
	}
	r.Add(at, "%s: %s %s is declared twice, first in line %s",
		path, r.kind, strictyaml.Shorten(name), strconv.Itoa(first.Line))
}
