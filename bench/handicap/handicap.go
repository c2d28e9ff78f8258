// Package handicap delays what a pod sends by a known time, so that it can be seen
// whether the benchmark finds it.
package handicap

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/duomesh/duomesh/internal/kernel"
)

//go:generate go tool bpf2go -tags linux -target bpfel -cc clang-19 -cflags "-O2 -g -Wall -Werror -mcpu=v3" handicap ../../bpf/handicap/handicap.bpf.c -- -I../../bpf/include

// Handicap is in force until it is closed.
type Handicap struct {
	objects handicapObjects
	link    link.Link
}

// Open delays every TCP segment with data that leaves an interface, by its index in a
// namespace that stays the caller's. The processor is held meanwhile. It needs Linux
// 6.6. The caller closes it.
func Open(ns *os.File, ifindex int, delay time.Duration) (_ *Handicap, err error) {
	h := new(Handicap)
	defer func() {
		if err != nil {
			err = errors.Join(err, h.Close())
		}
	}()
	spec, err := loadHandicap()
	if err != nil {
		return nil, fmt.Errorf("read the handicap: %w", err)
	}
	if err := spec.Variables["delay_ns"].Set(uint64(delay)); err != nil {
		return nil, fmt.Errorf("set the handicap: %w", err)
	}
	if err := spec.LoadAndAssign(&h.objects, nil); err != nil {
		return nil, fmt.Errorf("load the handicap: %w", err)
	}
	err = kernel.InNetns(ns, func() (err error) {
		h.link, err = link.AttachTCX(link.TCXOptions{Interface: ifindex, Program: h.objects.OnEgress, Attach: ebpf.AttachTCXEgress})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("attach the handicap to link %d: %w", ifindex, err)
	}
	return h, nil
}

// Close takes it away.
func (h *Handicap) Close() error {
	var err error
	if h.link != nil {
		err = h.link.Close()
		h.link = nil
	}
	return errors.Join(err, h.objects.Close())
}
