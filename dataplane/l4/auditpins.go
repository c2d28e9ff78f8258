package l4

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Pins are missing where somebody has removed a file of the BPF file system: connections
// go on, and the next process could not take over.

// Pinned stands for a map's name in a Difference of a pin that is gone.
const Pinned = "pins"

// pinnable is a map or a link.
type pinnable interface {
	Pin(path string) error
	Unpin() error
}

// lostPins are what is pinned and has no pin any more, by the path.
func (e *Engine) lostPins() map[string]pinnable {
	lost := map[string]pinnable{}
	if e.pins == nil {
		return lost
	}
	for name, m := range e.coll.Maps {
		if path := filepath.Join(e.pins.dir, name); !ofOneLoad(name) && !exists(path) {
			lost[path] = m
		}
	}
	for _, h := range e.hooks {
		if path := e.pins.link(h.program); !exists(path) {
			lost[path] = h.link
		}
	}
	return lost
}

func (e *Engine) auditPins() []Difference {
	var found []Difference
	for path := range e.lostPins() {
		found = append(found, Difference{Map: Pinned, Entry: path, Want: "pinned"})
	}
	return found
}

// repin pins again what has lost its pin.
func (e *Engine) repin() error {
	for path, what := range e.lostPins() {
		if err := os.Mkdir(e.pins.dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make directory of pins: %w", err)
		}
		// The library believes that it is pinned there.
		if err := errors.Join(what.Unpin(), what.Pin(path)); err != nil {
			return fmt.Errorf("pin %s again: %w", path, err)
		}
	}
	return nil
}
