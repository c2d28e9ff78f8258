package install

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// errChanged says that somebody else has written a file since it was read.
var errChanged = errors.New("somebody else has written it meanwhile")

// replace puts new in the place of a file that was read as old; a reader has the
// one or the other whole. Whoever has replaced the file since then is not
// overwritten: the names are exchanged (renameat2(2)), and exchanged back when
// what came out is not old. Only one who writes into the open file at this very
// moment can lose; so he does against any other reader of it.
func replace(path string, old, new []byte) error {
	temp, err := temporary(path, new)
	if err != nil {
		return err
	}
	defer os.Remove(temp)
	err = exchange(temp, path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errChanged
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		return os.Rename(temp, path) // a file system without exchange
	case err != nil:
		return fmt.Errorf("replace %s: %w", path, err)
	}
	was, err := os.ReadFile(temp)
	if err != nil {
		return fmt.Errorf("replace %s: %w", path, err)
	}
	if bytes.Equal(was, old) {
		return nil
	}
	if err := exchange(temp, path); err != nil {
		return fmt.Errorf("put back %s: %w", path, err)
	}
	return errChanged
}

func exchange(a, b string) error {
	return unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
}

// temporary writes a file beside path, with path's mode and owner where it is
// there. Its name is none that a runtime would load.
func temporary(path string, data []byte) (string, error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".duomesh-*.tmp")
	if err != nil {
		return "", fmt.Errorf("write beside %s: %w", path, err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, likeOf(f, path), f.Sync(), f.Close())
	if err != nil {
		return "", errors.Join(fmt.Errorf("write beside %s: %w", path, err), os.Remove(f.Name()))
	}
	return f.Name(), nil
}

// newFileMode is that of configuration that nobody has made before.
const newFileMode = 0o600

func likeOf(f *os.File, path string) error {
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return f.Chmod(newFileMode)
	}
	if err != nil {
		return err
	}
	owner := st.Sys().(*syscall.Stat_t)
	return errors.Join(f.Chmod(st.Mode().Perm()), f.Chown(int(owner.Uid), int(owner.Gid)))
}

// copyProgram puts a program into a directory under name, whole or not at all. One
// that is the same is left alone.
func copyProgram(from, dir, name string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("read the plugin: %w", err)
	}
	to := filepath.Join(dir, name)
	have, err := os.ReadFile(to)
	if err == nil && bytes.Equal(have, data) && executable(to) {
		return nil
	}
	temp, err := temporary(to, data)
	if err != nil {
		return err
	}
	if err := errors.Join(os.Chmod(temp, 0o755), os.Rename(temp, to)); err != nil {
		return errors.Join(fmt.Errorf("put the plugin into %s: %w", dir, err), os.Remove(temp))
	}
	return nil
}

func executable(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().Perm()&0o111 == 0o111
}

// renameNew fails with fs.ErrExist where the new name is taken.
func renameNew(from, to string) error {
	return unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
}
