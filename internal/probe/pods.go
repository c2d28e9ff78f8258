package probe

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/duomesh/duomesh/internal/kernel"
)

// watched is what the judge holds of one pod.
type watched struct {
	number uint32
	netns  uint64 // cookie
	ends   []linkEnd
	links  closers
}

// linkEnd is one watched interface of a pod: its entry in the map of links, and the
// number that it has there.
type linkEnd struct {
	key    probeLinkKey
	number uint32
	side   Side
}

// Add watches one more pod. When it returns, everything that the pod does is
// seen.
func (p *Probe) Add(t Target) (err error) {
	if err := t.validate(); err != nil {
		return err
	}
	p.change.Lock()
	defer p.change.Unlock()
	if p.closers == nil {
		return fmt.Errorf("watch pod %s: the probe is closed", t.Pod)
	}
	if p.pods[t.Pod] != nil {
		return fmt.Errorf("watch pod %s: it is watched already", t.Pod)
	}
	w := &watched{}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("watch pod %s: %w", t.Pod, err), p.unwatch(w))
		}
	}()
	if w.netns, err = p.freeNetns(t); err != nil {
		return err
	}
	for _, s := range p.sensors {
		c, err := s.Watch(t)
		if err != nil {
			return fmt.Errorf("by %s: %w", s.Name(), err)
		}
		if c != nil {
			w.links = append(w.links, c)
		}
	}
	p.lastPod++
	w.number = p.lastPod
	if err := p.openGates(t, w); err != nil {
		return err
	}
	p.pods[t.Pod] = w
	return nil
}

// freeNetns returns the cookie of a target's namespace; two pods cannot share
// one.
func (p *Probe) freeNetns(t Target) (uint64, error) {
	cookie, err := kernel.NetnsCookie(t.Netns)
	if err != nil {
		return 0, err
	}
	for name, other := range p.pods {
		if other.netns == cookie {
			return 0, fmt.Errorf("its network namespace is that of pod %s", name)
		}
	}
	return cookie, nil
}

// openGates lets the programs report this pod: its links first, then its
// sockets. What begins after that is judged.
func (p *Probe) openGates(t Target, w *watched) error {
	p.mu.Lock()
	p.book.watches[w.number] = watch{pod: t.Pod, since: int64(^uint64(0) >> 1)}
	p.mu.Unlock()
	for _, l := range t.Links {
		if err := p.openLink(t.Pod, l, w); err != nil {
			return err
		}
	}
	if err := p.objects.maps.Watched.Put(w.netns, w.number); err != nil {
		return fmt.Errorf("write its number to map %s: %w", probeMapWatched, err)
	}
	since, err := monotonic()
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.book.begun(w.number, since)
	return nil
}

func (p *Probe) openLink(pod string, l Link, w *watched) error {
	cookie, err := kernel.NetnsCookie(l.Netns)
	if err != nil {
		return err
	}
	p.lastLnk++
	p.mu.Lock()
	p.book.links[p.lastLnk] = linkInfo{pod: pod, side: l.Side}
	p.mu.Unlock()
	key := probeLinkKey{Netns: cookie, Ifindex: uint32(l.Ifindex)}
	value := probeLinkValue{Link: p.lastLnk, Pod: w.number}
	if err := p.objects.maps.Links.Update(key, value, ebpf.UpdateNoExist); err != nil {
		return fmt.Errorf("interface %d is counted already, or map %s is full: %w", l.Ifindex, probeMapLinks, err)
	}
	w.ends = append(w.ends, linkEnd{key, value.Link, l.Side})
	return nil
}

// Remove stops watching a pod. What was seen of it stays in the ledger,
// connections that are open as such.
func (p *Probe) Remove(pod string) error {
	p.change.Lock()
	defer p.change.Unlock()
	w := p.pods[pod]
	if w == nil {
		return fmt.Errorf("stop watching pod %s: it is not watched", pod)
	}
	delete(p.pods, pod)
	_, err := p.inspect(map[string]*watched{pod: w})
	err = errors.Join(err, p.notice(pod, w), p.unwatch(w))
	p.mu.Lock()
	defer p.mu.Unlock()
	err = errors.Join(err, p.read())
	p.book.left(w.number)
	if err != nil {
		return fmt.Errorf("stop watching pod %s: %w", pod, err)
	}
	return nil
}

// unwatch closes the gates and detaches. It undoes what was done so far.
func (p *Probe) unwatch(w *watched) error {
	var errs []error
	if w.number != 0 {
		errs = append(errs, absent(p.objects.maps.Watched.Delete(w.netns)))
	}
	for _, e := range w.ends {
		errs = append(errs, absent(p.objects.maps.Links.Delete(e.key)))
	}
	return errors.Join(append(errs, w.links.Close())...)
}

// absent makes deleting what is not there no error.
func absent(err error) error {
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil
	}
	return err
}
