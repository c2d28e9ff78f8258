package vmtest

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"

	"github.com/cavaliergopher/cpio"

	"github.com/duomesh/duomesh/internal/vmtest/guest"
)

// image is the file system of a machine before it is written.
type image struct {
	init    string   // path of vminit on the host
	modules []string // paths on the host, in the order of loading
	// files are other programs: path in the machine → path on the host.
	files map[string]string
	runs  []guest.Run
}

// write writes the image as an uncompressed initramfs (newc cpio, Documentation/
// driver-api/early-userspace/buffer-format.rst): unpacking is slower than
// reading in an emulated machine.
func (i image) write(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("write initramfs: %w", err)
	}
	buffered := bufio.NewWriterSize(f, 1<<20)
	w := &initramfs{w: cpio.NewWriter(buffered), dirs: map[string]bool{".": true, "/": true}}
	err = i.content(w)
	if err := errors.Join(err, w.w.Close(), buffered.Flush(), f.Close()); err != nil {
		return fmt.Errorf("write initramfs: %w", err)
	}
	return nil
}

func (i image) content(w *initramfs) error {
	if err := w.file("/init", i.init); err != nil {
		return err
	}
	job := guest.Job{Runs: i.runs}
	for _, m := range i.modules {
		name := filepath.Base(m)
		job.Modules = append(job.Modules, name)
		if err := w.file(guest.ModuleDir+"/"+name, m); err != nil {
			return err
		}
	}
	for to, from := range i.files {
		if err := w.file(to, from); err != nil {
			return err
		}
	}
	data, err := json.Marshal(job)
	if err != nil {
		return err
	}
	return w.bytes(guest.JobPath, data)
}

// initramfs is a cpio archive under way.
type initramfs struct {
	w     *cpio.Writer
	dirs  map[string]bool
	inode int64
}

func (w *initramfs) header(name string, mode cpio.FileMode, size int64) error {
	w.inode++
	return w.w.WriteHeader(&cpio.Header{
		Name: name[1:], Mode: mode, Size: size, Inode: w.inode, Links: 1,
	})
}

// parents makes the directories above an absolute path.
func (w *initramfs) parents(name string) error {
	dir := path.Dir(name)
	if w.dirs[dir] {
		return nil
	}
	w.dirs[dir] = true
	if err := w.parents(dir); err != nil {
		return err
	}
	return w.header(dir, cpio.TypeDir|0o755, 0)
}

func (w *initramfs) bytes(name string, data []byte) error {
	if err := w.parents(name); err != nil {
		return err
	}
	if err := w.header(name, cpio.TypeReg|0o644, int64(len(data))); err != nil {
		return err
	}
	_, err := w.w.Write(data)
	return err
}

func (w *initramfs) file(name, from string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if err := w.parents(name); err != nil {
		return err
	}
	if err := w.header(name, cpio.TypeReg|0o755, st.Size()); err != nil {
		return err
	}
	if _, err := io.Copy(w.w, f); err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	return nil
}
