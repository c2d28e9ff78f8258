package file

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// watching starts a Watch and returns a function that gives its next Update.
func watching(t *testing.T, path string) func() Update {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	updates, err := Watch(ctx, path, nil)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		for range updates { // until it is closed
		}
	})
	return func() Update {
		t.Helper()
		select {
		case u := <-updates:
			return u
		case <-time.After(20 * time.Second):
			t.Fatal("no update within 20 s")
		}
		return Update{}
	}
}

func weighing(weight int) string {
	return fmt.Sprintf("version: 1\nworkloads: [{name: a, weight: %d}, {name: b}]\n", weight)
}

func mustWrite(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantWeight takes Updates until one has the weight. Those before may only be
// errors: a change of several steps may be seen between two of them.
func wantWeight(t *testing.T, next func() Update, weight uint32) Update {
	t.Helper()
	for {
		u := next()
		if u.Err != nil {
			t.Log("on the way:", u.Err)
			continue
		}
		if got := u.Snapshot.Workloads[0].Weight; got != weight {
			t.Fatalf("weight %d, want %d", got, weight)
		}
		return u
	}
}

// replace puts a text in the place of a file in one step.
func replace(t *testing.T, path, text string) {
	t.Helper()
	mustWrite(t, path+".new", text)
	must(t, os.Rename(path+".new", path))
}

func relink(t *testing.T, target, link string) {
	t.Helper()
	must(t, os.Symlink(target, link+".new"))
	must(t, os.Rename(link+".new", link))
}

func TestWatchSeesChanges(t *testing.T) {
	for _, c := range []struct {
		name string
		// lay makes the file with weight 1 and returns its path and what
		// changes its weight.
		lay func(t *testing.T, dir string) (string, func(weight int))
	}{
		{"written in place", func(t *testing.T, dir string) (string, func(int)) {
			path := filepath.Join(dir, "mesh.yaml")
			mustWrite(t, path, weighing(1))
			return path, func(n int) { mustWrite(t, path, weighing(n)) }
		}},
		{"replaced by rename", func(t *testing.T, dir string) (string, func(int)) {
			path := filepath.Join(dir, "mesh.yaml")
			mustWrite(t, path, weighing(1))
			return path, func(n int) { replace(t, path, weighing(n)) }
		}},
		{"removed and made again", func(t *testing.T, dir string) (string, func(int)) {
			path := filepath.Join(dir, "mesh.yaml")
			mustWrite(t, path, weighing(1))
			return path, func(n int) { must(t, os.Remove(path)); mustWrite(t, path, weighing(n)) }
		}},
		{"ConfigMap", func(t *testing.T, dir string) (string, func(int)) {
			set := func(n int) {
				version := fmt.Sprintf("..%d", n)
				must(t, os.Mkdir(filepath.Join(dir, version), 0o700))
				mustWrite(t, filepath.Join(dir, version, "mesh.yaml"), weighing(n))
				relink(t, version, filepath.Join(dir, "..data"))
			}
			set(1)
			must(t, os.Symlink("..data/mesh.yaml", filepath.Join(dir, "mesh.yaml")))
			return filepath.Join(dir, "mesh.yaml"), set
		}},
		{"link to a file elsewhere", func(t *testing.T, dir string) (string, func(int)) {
			path := filepath.Join(t.TempDir(), "real.yaml")
			mustWrite(t, path, weighing(1))
			must(t, os.Symlink(path, filepath.Join(dir, "mesh.yaml")))
			return filepath.Join(dir, "mesh.yaml"), func(n int) { replace(t, path, weighing(n)) }
		}},
		{"directory replaced", func(t *testing.T, dir string) (string, func(int)) {
			set := func(n int) {
				must(t, os.MkdirAll(filepath.Join(dir, "conf"), 0o700))
				mustWrite(t, filepath.Join(dir, "conf", "mesh.yaml"), weighing(n))
			}
			set(1)
			return filepath.Join(dir, "conf", "mesh.yaml"), func(n int) {
				must(t, os.Rename(filepath.Join(dir, "conf"), filepath.Join(dir, fmt.Sprint("old", n))))
				set(n)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path, change := c.lay(t, t.TempDir())
			next := watching(t, path)
			first := wantWeight(t, next, 1)
			for n := 2; n < 5; n++ { // more than once: the watch must still be there
				change(n)
				u := wantWeight(t, next, uint32(n))
				if u.Snapshot.Workloads[1] != first.Snapshot.Workloads[1] {
					t.Error("an unchanged workload is not shared")
				}
			}
		})
	}
}

func TestWatchKeepsTheLastSnapshotOverAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	next := watching(t, path)
	if u := next(); u.Err == nil || !strings.Contains(u.Err.Error(), path) {
		t.Fatalf("missing file: got %v", u.Err)
	}
	replace(t, path, weighing(1))
	first := wantWeight(t, next, 1)

	replace(t, path, "version: 1\nworkloads: [{name: a, wait: 1}]\n")
	if u := next(); u.Err == nil || !strings.Contains(u.Err.Error(), path+":2:23: workloads[0].wait is not a key") {
		t.Fatalf("bad file: got %v", u.Err)
	}
	replace(t, path, weighing(1))
	again := wantWeight(t, next, 1)
	if got := kept(first.Snapshot, again.Snapshot); got != "a b" {
		t.Errorf("after an error and back only %q is shared", got)
	}
}

func TestSameContentIsNoUpdate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	w := &watcher{path: path, updates: make(chan Update)}
	for _, step := range []struct {
		name   string
		act    func()
		update bool
	}{
		{"missing", func() {}, true},
		{"still missing", func() {}, false},
		{"written", func() { mustWrite(t, path, weighing(1)) }, true},
		{"replaced by the same", func() { replace(t, path, weighing(1)) }, false},
		{"wrong", func() { mustWrite(t, path, "version: 2\n") }, true},
		{"as wrong as before", func() { mustWrite(t, path, "version: 2\n") }, false},
		{"removed", func() { must(t, os.Remove(path)) }, true},
	} {
		step.act()
		w.reload()
		if got := w.pending != nil; got != step.update {
			t.Errorf("%s: update %t, want %t", step.name, got, step.update)
		}
		if w.pending != nil {
			w.sent()
		}
	}
}

// A file that is renamed into its place is read at once, again and again; one that
// is written in place is not.
func TestRenamedFileIsReadAtOnce(t *testing.T) {
	for name, c := range map[string]struct {
		change func(t *testing.T, path, text string)
		atOnce bool
	}{
		"renamed": {replace, true},
		"written": {mustWrite, false},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "mesh.yaml")
			mustWrite(t, path, weighing(1))
			next := watching(t, path)
			wantWeight(t, next, 1)
			const changes = 8
			began := time.Now()
			for n := uint32(2); n < 2+changes; n++ {
				c.change(t, path, weighing(int(n)))
				wantWeight(t, next, n)
			}
			// Not a matter of speed: whoever waits, waits for 50 ms each time.
			if waited := time.Since(began) >= changes*quiet; waited == c.atOnce {
				t.Errorf("%d changes took %v", changes, time.Since(began))
			}
		})
	}
}

func TestLateReceiverGetsTheNewest(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mesh.yaml")
	mustWrite(t, path, weighing(1))
	w := &watcher{path: path, updates: make(chan Update)}
	for n := 1; n <= 3; n++ {
		mustWrite(t, path, weighing(n))
		w.reload()
	}
	if ch, u := w.next(); ch == nil || u.Snapshot.Workloads[0].Weight != 3 {
		t.Errorf("pending: %v", u)
	}
	if w.sent(); w.last.Workloads[0].Weight != 3 || w.pending != nil {
		t.Error("what was sent is not the last Snapshot")
	}
}

func TestWatchEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	updates, err := Watch(ctx, filepath.Join(t.TempDir(), "none.yaml"), nil)
	must(t, err)
	cancel()
	deadline := time.After(20 * time.Second)
	for {
		select {
		case _, open := <-updates:
			if !open {
				return
			}
		case <-deadline:
			t.Fatal("the channel is still open")
		}
	}
}
