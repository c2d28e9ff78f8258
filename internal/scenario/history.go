package scenario

import "slices"

// Chronicler is a World that can tell which objects each node had at which moment
// while a Churn went on. Only with it can a connection that was made meanwhile be
// held against what was declared at that moment, and not only against all that ever
// was.
type Chronicler interface {
	// History returns the state before the first Churn since the world was opened,
	// and every one that nodes were given from then on, the oldest first.
	History() []Held
}

// Held is one state of the objects. Times are of CLOCK_MONOTONIC, in nanoseconds.
type Held struct {
	Objects Objects
	// Handed is a moment before any node was given the objects; 0 where they were
	// the state before a Churn.
	Handed int64
	// Applied is, by node, a moment at which its kernel was known to have them. A
	// node that never was known to, because newer objects came first, has none.
	Applied map[string]int64
}

// Endpoints are the pods behind a service of the objects that a share is given to,
// wherever the caller stands.
func (o Objects) Endpoints(service string) []string {
	var pods []string
	for _, s := range o.Services {
		if s.Name != service {
			continue
		}
		for _, e := range s.Endpoints {
			if e.Weight > 0 && (s.PublishNotReady || !slices.Contains(o.Unready, e.Pod)) {
				pods = append(pods, e.Pod)
			}
		}
	}
	return pods
}
