package install

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// quiet is how long the directories must be left alone before they are read.
	quiet = 50 * time.Millisecond
	// again is when a look is taken though nothing was said: a directory may have
	// been replaced, or could not be written.
	again = 10 * time.Second
)

// Run keeps the plugin installed until ctx ends; it stays installed then. What
// goes wrong is logged and tried again: a node's network comes up after its agent.
// changed is called after each look; it may be nil.
func (i *Installer) Run(ctx context.Context, changed func(installed bool, err error)) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch CNI configuration: %w", err)
	}
	defer w.Close()
	tick := time.NewTicker(again)
	defer tick.Stop()
	for {
		// Watched before it is read: what is written meanwhile is seen afterwards.
		err := errors.Join(w.Add(i.cfg.NetDir), w.Add(i.cfg.BinDir))
		installed, ensured := i.Ensure()
		i.say(errors.Join(err, ensured))
		if changed != nil {
			changed(installed, errors.Join(err, ensured))
		}
		if !await(ctx, w, tick.C) {
			return nil
		}
	}
}

func (i *Installer) say(err error) {
	const key = ""
	switch {
	case err == nil:
		delete(i.said, key)
	case i.said[key] != err.Error():
		i.said[key] = err.Error()
		i.cfg.Log.Error("the CNI plugin is not installed", "err", err)
	}
}

// await returns true when something has happened and it is quiet again, false when
// ctx has ended.
func await(ctx context.Context, w *fsnotify.Watcher, tick <-chan time.Time) bool {
	var calm <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return false
		case <-tick:
			return true
		case <-calm:
			return true
		case <-w.Events:
		case <-w.Errors: // events were lost: look
		}
		calm = time.After(quiet)
	}
}
