package l4

import (
	"slices"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// wanted is the last applied Snapshot, in the form in which the next one is
// compared with it: what an Apply costs grows with what changed, not with what
// is there.
type wanted struct {
	// applied is set after the first Apply; before, the entries of the kernel may
	// be those of a process that ran earlier.
	applied   bool
	services  []*intent.Service
	byName    map[string]*compiled
	holders   map[meshFrontendKey][]holder
	workloads []*intent.Workload
	// uids has the workloads, with what there is of those that have a waypoint.
	uids map[string]*compiled
	ways map[*intent.Waypoint]*way
	// lacks is what this kernel cannot do for waypoints.
	lacks missing
	// ids has the TCP frontends of services by their ids in a hand-off.
	ids map[uint32][]meshFrontendKey
	// id is handoffID; a test has another one.
	id func(network string, k meshFrontendKey) uint32
	// gateways counts the workloads by the names, as in Pod, of what may not be
	// enrolled.
	gateways map[string]int
}

func newWanted() wanted {
	return wanted{
		byName:   map[string]*compiled{},
		holders:  map[meshFrontendKey][]holder{},
		uids:     map[string]*compiled{},
		ways:     map[*intent.Waypoint]*way{},
		ids:      map[uint32][]meshFrontendKey{},
		id:       handoffID,
		gateways: map[string]int{},
	}
}

// holder is a service or workload that claims a frontend. A list of them is in the
// order of compare: the first has it.
type holder struct {
	*compiled
	front *front // nil: an address, at port 0
}

// value is the entry; id is what a hand-off to k has, 0 where there is none.
func (h holder) value(k meshFrontendKey, id uint32) meshFrontend {
	if h.front == nil {
		return seal(k, meshFrontend{Flags: uint16(meshFrontendFlagFRONTEND_ADDR_ONLY)})
	}
	return h.front.value(id)
}

// passes is true for a frontend whose connections go where they were going.
func (h holder) passes() bool {
	return h.front != nil && h.front.flags&uint16(meshFrontendFlagFRONTEND_PASSTHROUGH) != 0
}

// handedOff is true for a front that leads to a waypoint by an option in the SYN,
// headed where that wants a header.
func (f front) handedOff() bool { return isHandedOff(f.flags) }
func (f front) headed() bool    { return isHeaded(f.flags) }

// insert adds a claim, unless its service has one already: an address may be
// listed twice.
func insert(list []holder, h holder) []holder {
	at, found := slices.BinarySearchFunc(list, h, func(a, b holder) int {
		return a.compare(b.compiled)
	})
	if found {
		return list
	}
	return slices.Insert(list, at, h)
}

// changes are what a Snapshot has other than the last one.
type changes struct {
	services  change[intent.Service]
	workloads change[intent.Workload]
}

func (w *wanted) changes(s intent.Snapshot) changes {
	return changes{changeOf(w.services, s.Services), changeOf(w.workloads, s.Workloads)}
}

// validate is Snapshot.Validate, without a second look at the values that were
// applied before.
func (w *wanted) validate(s intent.Snapshot, c changes) error {
	named := func(key string) bool { _, known := w.byName[key]; return known }
	known := func(uid string) bool { _, known := w.uids[uid]; return known }
	if len(s.Routes) > 0 || c.services.twice((*intent.Service).Key, named) || c.workloads.twice(uidOf, known) {
		return s.Validate()
	}
	return intent.Snapshot{Services: c.services.added, Workloads: c.workloads.added}.Validate()
}

func uidOf(w *intent.Workload) string { return w.UID }

// adopt makes a plan's Snapshot the one to compare with.
func (w *wanted) adopt(p *plan) {
	w.applied = true
	w.services = p.services.list(w.services)
	for _, c := range p.compiled {
		w.use(c)
	}
	for _, svc := range p.services.gone {
		w.drop(w.byName[svc.Key()])
		delete(w.byName, svc.Key())
	}
	for _, gone := range p.workloads.gone {
		w.drop(w.uids[gone.UID])
		delete(w.uids, gone.UID)
	}
	for _, added := range p.workloads.added {
		w.uids[added.UID] = nil
	}
	for _, c := range p.compiled {
		if c.service != nil {
			w.byName[c.service.Key()] = c
		} else {
			w.uids[c.workload.UID] = c
		}
	}
	for k, list := range p.holders {
		if len(list) == 0 {
			delete(w.holders, k)
		} else {
			w.holders[k] = list
		}
	}
	w.adoptIDs(p)
	w.adoptWorkloads(p.workloads)
}

func (w *wanted) adoptWorkloads(c change[intent.Workload]) {
	w.workloads = c.list(w.workloads)
	for _, gone := range c.gone {
		if name := gone.Namespace + "/" + gone.Name; gone.Gateway {
			if w.gateways[name]--; w.gateways[name] == 0 {
				delete(w.gateways, name)
			}
		}
	}
	for _, added := range c.added {
		if added.Gateway {
			w.gateways[added.Namespace+"/"+added.Name]++
		}
	}
}
