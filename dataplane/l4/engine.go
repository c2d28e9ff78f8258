package l4

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/bits"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/duomesh/duomesh/internal/kernel"
)

var errClosed = errors.New("the engine is closed")

// Engine is engine 1 on one node. Its methods may be called concurrently.
type Engine struct {
	host   Host
	limits Limits
	log    *slog.Logger

	mu        sync.Mutex
	closed    bool
	state     *state
	enrolled  map[uint64]string // netns cookie → pod name, "" when not known
	managed   table[uint64, uint32]
	pods      table[uint32, uint64]
	frontends table[meshFrontendKey, meshFrontend]
	slots     table[uint32, meshSlot]
	flips     table[uint32, uint32]
	cpus      *ebpf.Map
	ender     *link.Iter // nil: the kernel cannot end UDP sockets
	names     table[uint32, meshName]
	waypoints table[uint64, uint32]
	// served has the waypoint pods of this node by the cookies of their netns.
	served map[uint64]*served
	// noHandoff is why this kernel hands off no connection, nil when it does.
	noHandoff error
	// noHeaders is why this kernel writes no header in front of a connection's first
	// bytes, nil when it does. headers are the programs for that, until they are
	// attached; unsent is nil before.
	noHeaders error
	headers   *ebpf.CollectionSpec
	unsent    *ebpf.Map
	// preparer is nil where the kernel cannot prepare listeners; noPreparer says
	// why.
	preparer   *link.Iter
	noPreparer error
	// staleUDP is how often EndStale has to look: above 0 while connected UDP
	// sockets may lead to endpoints that have left.
	staleUDP  int
	coll      *ebpf.Collection
	hooks     []*hook
	grace     *grace
	shown     time.Time // see Shown
	pins      *pins     // nil: nothing is pinned
	closers   []io.Closer
	neighbors []Neighbour // of the node, when they were last looked for
	// beside has the neighbours of pods, by netns cookie.
	beside map[uint64][]Neighbour
	force  bool // Options.Force
	// inherited: see Inherited.
	inherited bool
}

// Open loads the programs and attaches them to h.Cgroup. Where h.BPFFS holds the
// state of an earlier process, it is taken over: maps, enrolments and services
// stay, the programs are replaced one by one in their links, and connections
// are redirected all the while. The first Apply then replaces the services.
//
// Errors: PinError when that state is not complete, is of another ABI, has other
// limits, or belongs to a running engine; RewrittenError when a program of someone
// else changes where connections go; KernelError where the kernel lacks what is needed;
// else what the kernel refuses.
func Open(h Host, o Options) (_ *Engine, err error) {
	e := &Engine{
		host: h, limits: o.Limits.withDefaults(), log: h.Log,
		enrolled: map[uint64]string{}, served: map[uint64]*served{},
		beside: map[uint64][]Neighbour{}, force: o.Force,
	}
	e.state = newState(e.limits.Slots)
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("open engine: %w", unsupportedKernel(err, needed(o))), e.undo())
		}
	}()
	if err := isCgroup2(h.Cgroup); err != nil {
		return nil, err
	}
	if h.BPFFS != "" {
		if e.pins, err = openPins(h.BPFFS); err != nil {
			return nil, err
		}
		e.closers = append(e.closers, e.pins)
	}
	if err := e.load(o); err != nil {
		return nil, err
	}
	if err := kernel.NetnsCookies.Probe(); lacking(err) { // without it no pod can be enrolled
		return nil, err
	}
	if err := e.adopt(); err != nil {
		return nil, err
	}
	if err := e.attach(o); err != nil {
		return nil, err
	}
	e.closers = append(e.closers, closer(e.closeServed))
	if err := e.adoptServed(); err != nil {
		return nil, err
	}
	if err := e.adoptHeaders(); err != nil {
		return nil, err
	}
	if err := e.meetNode(); err != nil {
		return nil, err
	}
	return e, nil
}

func (e *Engine) load(o Options) error {
	spec, err := loadMesh()
	if err != nil {
		return fmt.Errorf("read mesh programs: %w", err)
	}
	if err := e.configure(spec, o); err != nil {
		return err
	}
	ender, preparer := spec.Programs[meshProgMeshEndUdp], spec.Programs[meshProgMeshPrepare]
	delete(spec.Programs, meshProgMeshEndUdp)
	delete(spec.Programs, meshProgMeshPrepare)
	if err := e.tryHandoff(); err != nil {
		return err
	}
	if err := e.tryHeaders(spec); err != nil {
		return err
	}
	if e.noHandoff != nil {
		delete(spec.Programs, meshProgMeshSockops)
		delete(spec.Programs, meshProgMeshGetsockopt)
	}
	var options ebpf.CollectionOptions
	if e.pins != nil {
		if err := e.pins.prepare(spec); err != nil {
			return err
		}
		options.Maps.PinPath = e.pins.dir
	}
	e.coll, err = ebpf.NewCollectionWithOptions(spec, options)
	if err != nil {
		return fmt.Errorf("load mesh programs: %w", explain(err))
	}
	e.closers = append(e.closers, closer(func() error { e.coll.Close(); return nil }))
	e.managed = table[uint64, uint32]{name: meshMapManaged, m: e.coll.Maps[meshMapManaged]}
	e.frontends = table[meshFrontendKey, meshFrontend]{name: meshMapFrontends, m: e.coll.Maps[meshMapFrontends]}
	e.slots = table[uint32, meshSlot]{name: meshMapSlots, m: e.coll.Maps[meshMapSlots]}
	e.pods = table[uint32, uint64]{name: meshMapPods, m: e.coll.Maps[meshMapPods]}
	e.flips = table[uint32, uint32]{name: meshMapFlips, m: e.coll.Maps[meshMapFlips]}
	e.names = table[uint32, meshName]{name: meshMapNames, m: e.coll.Maps[meshMapNames]}
	e.waypoints = table[uint64, uint32]{name: meshMapWaypoints, m: e.coll.Maps[meshMapWaypoints]}
	e.cpus = e.coll.Maps[meshMapCpus]
	if e.grace, err = newGrace(); err != nil {
		return err
	}
	e.closers = append(e.closers, e.grace)
	if err := e.loadPreparer(preparer, spec); err != nil {
		return err
	}
	return e.loadEnder(ender, spec)
}

// configure sets what the programs take as constants and the maps as sizes.
func (e *Engine) configure(spec *ebpf.CollectionSpec, o Options) error {
	spec.Maps[meshMapManaged].MaxEntries = e.limits.Managed
	spec.Maps[meshMapFrontends].MaxEntries = e.limits.Frontends
	spec.Maps[meshMapSlots].MaxEntries = e.limits.Slots
	spec.Maps[meshMapLates].MaxEntries = e.limits.LateFlows
	if err := spec.Variables[meshVarCfgHalvings].Set(uint32(bits.Len32(e.limits.Slots))); err != nil {
		return fmt.Errorf("set %s: %w", meshVarCfgHalvings, err)
	}
	spec.Maps[meshMapNames].MaxEntries = e.limits.Names
	spec.Maps[meshMapWaypoints].MaxEntries = e.limits.Waypoints
	if err := seeFields(spec); err != nil {
		return err
	}
	retval, err := haveHelper(asm.FnSetRetval)
	if err != nil {
		return err
	}
	if !retval {
		e.log.Warn("this kernel has no bpf_set_retval: a refused connection gets EPERM, not ECONNREFUSED")
	}
	places, err := haveHelper(asm.FnSkcToMptcpSock)
	if err != nil {
		return err
	}
	if kernel.BTF.Probe() != nil {
		places = false
	}
	for name, value := range map[string]bool{
		meshVarCfgSetRetval: retval, meshVarCfgPlaces: places, meshVarCfgKeepPeer: !o.HidePeer,
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	if o.HidePeer {
		delete(spec.Programs, meshProgMeshGetpeername4)
		delete(spec.Programs, meshProgMeshGetpeername6)
		delete(spec.Programs, meshProgMeshSockRelease)
	}
	return nil
}

func haveHelper(f asm.BuiltinFunc) (bool, error) {
	err := kernel.HaveHelper(ebpf.CGroupSockAddr, f)
	if err != nil && !errors.Is(err, ebpf.ErrNotSupported) {
		return false, fmt.Errorf("try helper %s: %w", f, explain(err))
	}
	return err == nil, nil
}

// adopt reads what an earlier process left in the maps.
func (e *Engine) adopt() error {
	if e.pins == nil || e.pins.fresh {
		return nil
	}
	if err := e.reread(); err != nil {
		var strange strangeError
		if errors.As(err, &strange) {
			return PinError{Path: e.pins.dir, Reason: err.Error()}
		}
		return err
	}
	if err := e.managed.each(func(cookie uint64, _ uint32) { e.enrolled[cookie] = "" }); err != nil {
		return err
	}
	e.inherited = len(e.state.fronts) > 0 || len(e.enrolled) > 0
	e.staleUDP = sweeps
	if err := e.flipping(false); err != nil { // it may have been killed while it did
		return err
	}
	return e.replace()
}

// Inherited reports whether the kernel has services or enrolments of an earlier process,
// which go on until the first Apply.
func (e *Engine) Inherited() bool { return e.inherited }

// undo takes back a failed Open. State that was there before stays.
func (e *Engine) undo() error {
	if e.pins != nil && e.pins.fresh {
		return e.Remove()
	}
	return e.Close()
}

// Close lets go of the kernel's objects. What is pinned goes on redirecting,
// without pins the redirection ends; established connections are not touched
// either way. Closing again does nothing.
func (e *Engine) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.close()
}

func (e *Engine) close() error {
	if e.closed {
		return nil
	}
	e.closed = true
	var errs []error
	for i := len(e.closers) - 1; i >= 0; i-- {
		errs = append(errs, e.closers[i].Close())
	}
	return errors.Join(errs...)
}

// Remove detaches the programs, removes the pins and closes the engine: nothing
// of it is left on the node.
func (e *Engine) Remove() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return errClosed
	}
	var errs []error
	for _, h := range e.hooks {
		errs = append(errs, h.unpin())
	}
	if e.pins != nil {
		errs = append(errs, e.pins.remove())
	}
	return errors.Join(append(errs, e.close())...)
}

type closer func() error

// Close calls f.
func (f closer) Close() error { return f() }
