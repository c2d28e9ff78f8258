package file

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/duomesh/duomesh/dataplane/intent"
)

// Times of a Watch.
const (
	// quiet is how long nothing must happen before the file is read again, so
	// that a file that is being written is not read half.
	quiet = 50 * time.Millisecond
	// patience is how long the reading is put off in a directory where
	// something happens all the time.
	patience = time.Second
	// again is how often a directory that is not there is looked for.
	again = time.Second
)

// Update is a new state of a watched file: its Snapshot, or why there is none.
// After an error the last Snapshot stays in force.
type Update struct {
	Snapshot intent.Snapshot
	// Version names the content, see Version; "" when it could not be read.
	Version string
	Err     error
}

// Version names a content of a file: two files have the same when they are equal
// byte by byte. It is the SHA-256 as hexadecimal digits.
func Version(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// Watch reads the file at path and sends an Update at once, and another each
// time the content has changed or cannot be read any more. What has not
// changed since the last Snapshot that was sent is shared with it by pointer.
// A receiver that is late gets only the newest Update.
//
// A file that is replaced by rename, by a changed link or by a changed link on
// the way to it (Kubernetes' ..data) is followed. One that another file of its
// directory is renamed to is whole, and read at once. One that is written in place
// is read when 50 ms have passed without a write; writers that take longer
// between two writes must use rename.
//
// The channel is closed when ctx ends. log gets trouble with the watch itself
// that heals by itself; nil discards.
func Watch(ctx context.Context, path string, log *slog.Logger) (<-chan Update, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", path, err)
	}
	n, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", path, err)
	}
	w := &watcher{path: path, abs: abs, log: log.With("path", path), notify: n, updates: make(chan Update)}
	go w.run(ctx)
	return w.updates, nil
}

// watcher is the state of one Watch; run alone touches it.
type watcher struct {
	path, abs string
	log       *slog.Logger
	notify    *fsnotify.Watcher
	updates   chan Update

	renamed bool            // the last event: a file of a watched directory got another name
	content []byte          // as last read
	failure string          // the last reading's error, if it gave no content
	read    bool            // something was read or failed before
	last    intent.Snapshot // as last sent
	pending *Update         // not yet taken by the receiver
}

func (w *watcher) run(ctx context.Context) {
	defer close(w.updates)
	defer w.notify.Close()
	retry := time.NewTicker(again)
	defer retry.Stop()

	complete := w.follow()
	w.reload()
	var settled <-chan time.Time // nil: nothing has happened
	var since time.Time
	for {
		updates, update := w.next()
		select {
		case <-ctx.Done():
			return
		case updates <- update:
			w.sent()
		case e := <-w.notify.Events:
			if w.replaced(e) {
				settled = nil
				w.reload()
				continue
			}
			settled, since = settle(settled != nil, since)
		case err := <-w.notify.Errors:
			w.log.Warn("events of the intent file were lost, reading it again", "err", err)
			settled, since = settle(settled != nil, since)
		case <-settled:
			settled = nil
			complete = w.follow()
			w.reload()
		case <-retry.C:
			if !complete && settled == nil {
				complete = w.follow()
				w.reload()
			}
		}
	}
}

// replaced reports whether e is the second half of a rename to the very file: the
// kernel tells of the old name and of the new one back to back (inotify(7)). What
// had that name before was whole or not, it is gone.
func (w *watcher) replaced(e fsnotify.Event) bool {
	renamed := w.renamed
	w.renamed = e.Has(fsnotify.Rename)
	if !renamed || !e.Has(fsnotify.Create) {
		return false
	}
	placed, err := os.Lstat(e.Name)
	if err != nil || !placed.Mode().IsRegular() {
		return false
	}
	now, err := os.Stat(w.abs)
	return err == nil && os.SameFile(placed, now)
}

// settle returns when to read the file after an event; since is the first
// event that has not been answered by a reading.
func settle(waiting bool, since time.Time) (<-chan time.Time, time.Time) {
	if !waiting {
		since = time.Now()
	}
	return time.After(min(quiet, max(0, patience-time.Since(since)))), since
}

// next returns the channel and the Update to send; nil when there is none.
func (w *watcher) next() (chan<- Update, Update) {
	if w.pending == nil {
		return nil, Update{}
	}
	return w.updates, *w.pending
}

func (w *watcher) sent() {
	if w.pending.Err == nil {
		w.last = w.pending.Snapshot
	}
	w.pending = nil
}

// reload reads the file and makes an Update pending when it is not as before.
func (w *watcher) reload() {
	data, err := read(w.path)
	failure := ""
	if err != nil {
		failure = err.Error()
	}
	if w.read && failure == w.failure && bytes.Equal(data, w.content) {
		return
	}
	w.read, w.failure, w.content = true, failure, data
	w.pending = &Update{Err: err}
	if err == nil {
		w.pending = w.parse(data)
		w.pending.Version = Version(data)
	}
}

func (w *watcher) parse(data []byte) *Update {
	s, err := Parse(w.path, data)
	if err != nil {
		return &Update{Err: err}
	}
	return &Update{Snapshot: share(w.last, s)}
}

// follow watches every directory in which a change can make the path another
// file, and no other. It reports whether all of them are there. A link that
// changes before its directory is watched gives no event, so it looks again.
func (w *watcher) follow() bool {
	dirs, complete := chain(w.abs)
	for range maxLinks {
		added := w.watch(dirs)
		now, whole := chain(w.abs)
		if complete = whole && added; slices.Equal(now, dirs) {
			break
		}
		dirs = now
	}
	return complete
}

func (w *watcher) watch(dirs []string) bool {
	for _, dir := range w.notify.WatchList() {
		if !slices.Contains(dirs, dir) {
			// Fails when the directory is gone, and the watch with it.
			_ = w.notify.Remove(dir)
		}
	}
	complete := true
	for _, dir := range dirs {
		if err := w.notify.Add(dir); err != nil {
			w.log.Warn("a directory on the way to the intent file cannot be watched, trying again",
				"directory", dir, "err", err)
			complete = false
		}
	}
	return complete
}
