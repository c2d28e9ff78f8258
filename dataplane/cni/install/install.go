package install

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"

	"github.com/duomesh/duomesh/dataplane/cni"
)

// Config says what is installed where.
type Config struct {
	// NetDir is the runtime's directory of configuration, /etc/cni/net.d.
	NetDir string
	// BinDir is the runtime's directory of plugins, /opt/cni/bin.
	BinDir string
	// Program is the plugin that is copied to BinDir.
	Program string
	// Plugin is the entry in the chain; its type is set by this package.
	Plugin cni.Conf
	// Log gets a line for each change, and for each file that cannot be read.
	Log *slog.Logger
}

// Names that are this package's. A runtime loads .conf, .conflist and .json: the
// first of these is loaded, the other is not.
const (
	madeSuffix  = ".duomesh.conflist" // a list made of a configuration of one plugin
	savedSuffix = ".duomesh-saved"    // that configuration, as it was
)

// extensions are what container runtimes load, the first in order of names.
var extensions = []string{".conf", ".conflist", ".json"}

// Installer keeps the plugin in a node's chain.
type Installer struct {
	cfg   Config
	entry []byte
	said  map[string]string // problems by file, so that each is logged once
}

// New checks the configuration; nothing is touched.
func New(cfg Config) (*Installer, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if err := cfg.Plugin.Check(); err != nil {
		return nil, fmt.Errorf("CNI plugin: %w", err)
	}
	entry, err := entryOf(cfg.Plugin)
	if err != nil {
		return nil, fmt.Errorf("CNI plugin: %w", err)
	}
	return &Installer{cfg: cfg, entry: entry, said: map[string]string{}}, nil
}

// entryOf has the fields of this plugin alone, not the empty ones of the library.
func entryOf(c cni.Conf) ([]byte, error) {
	return json.Marshal(struct {
		Type           string   `json:"type"`
		Socket         string   `json:"socket,omitempty"`
		AgentAbsent    string   `json:"agentAbsent,omitempty"`
		PassNamespaces []string `json:"passNamespaces,omitempty"`
		WaitSeconds    int      `json:"waitSeconds,omitempty"`
	}{cni.Type, c.Socket, c.AgentAbsent, c.PassNamespaces, c.WaitSeconds})
}

// attempts bounds how often one Ensure begins anew when others write meanwhile.
const attempts = 20

// Ensure copies the plugin and puts it into the chain that the runtime uses: the
// first configuration of NetDir that can be read. In others it is taken out. It
// reports false while there is no configuration. A file that is broken is named
// in the log and left alone.
func (i *Installer) Ensure() (bool, error) {
	if err := copyProgram(i.cfg.Program, i.cfg.BinDir, cni.Type); err != nil {
		return false, err
	}
	var installed bool
	err := i.repeat(func() (err error) {
		installed, err = i.ensure()
		return err
	})
	return installed, err
}

func (i *Installer) repeat(f func() error) error {
	for n := 1; ; n++ {
		err := f()
		if n == attempts || !errors.Is(err, errChanged) && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
}

func (i *Installer) ensure() (bool, error) {
	files, err := libcni.ConfFiles(i.cfg.NetDir, extensions)
	if err != nil {
		return false, fmt.Errorf("list %s: %w", i.cfg.NetDir, err)
	}
	slices.Sort(files)
	installed, made := false, ""
	for _, file := range files {
		if file == made {
			continue
		}
		if source, ok := strings.CutSuffix(file, madeSuffix); ok && installed {
			if err := i.putBack(source); err != nil {
				return installed, err
			}
			continue
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return installed, err
		}
		if installed {
			err = i.takeOut(file, data)
		} else {
			installed, err = i.putIn(file, data)
			made = file + madeSuffix
		}
		if err != nil {
			return installed, err
		}
	}
	return installed, nil
}

// putIn reports false when the file is broken: a runtime does not use it either.
func (i *Installer) putIn(file string, data []byte) (bool, error) {
	if filepath.Ext(file) != ".conflist" {
		return i.makeList(file, data)
	}
	wanted, err := with(data, i.entry, cni.Type)
	if err != nil {
		i.broken(file, err)
		return false, nil
	}
	i.mended(file)
	if bytes.Equal(wanted, data) {
		return true, nil
	}
	if err := replace(file, data, wanted); err != nil {
		return false, err
	}
	i.cfg.Log.Info("the CNI plugin was put into the chain", "file", file)
	return true, nil
}

// listOf is a list with the configuration of one plugin in it, under its name (CNI
// specification 1.1.0, section 1).
func listOf(conf []byte) ([]byte, error) {
	var one struct {
		CNIVersion string `json:"cniVersion"`
		Name       string `json:"name"`
		Type       string `json:"type"`
	}
	if err := json.Unmarshal(conf, &one); err != nil {
		return nil, fmt.Errorf("parse: %w", err)
	}
	if one.Name == "" || one.Type == "" {
		return nil, errors.New("neither a list of plugins nor one with a name and a type")
	}
	list := map[string]any{"name": one.Name, "plugins": []json.RawMessage{conf}}
	if one.CNIVersion != "" {
		list["cniVersion"] = one.CNIVersion
	}
	return json.MarshalIndent(list, "", "  ")
}

// makeList puts a list in the place of a configuration of one plugin, which cannot
// be chained. The configuration is kept under a name that no runtime loads.
func (i *Installer) makeList(file string, data []byte) (bool, error) {
	list, err := listOf(data)
	if err != nil {
		i.broken(file, err)
		return false, nil
	}
	wanted, err := with(list, i.entry, cni.Type)
	if err != nil {
		i.broken(file, err)
		return false, nil
	}
	i.mended(file)
	temp, err := temporary(file, wanted)
	if err != nil {
		return false, err
	}
	// The list first: there is no moment without a configuration.
	if err := os.Rename(temp, file+madeSuffix); err != nil {
		return false, errors.Join(err, os.Remove(temp))
	}
	if err := os.Rename(file, file+savedSuffix); err != nil {
		return false, err
	}
	i.cfg.Log.Info("a chain was made of the configuration of one CNI plugin", "file", file+madeSuffix, "kept", file+savedSuffix)
	return true, nil
}

// takeOut leaves a file as it was before putIn.
func (i *Installer) takeOut(file string, data []byte) error {
	if filepath.Ext(file) != ".conflist" || !bytes.Contains(data, []byte(cni.Type)) {
		return nil
	}
	wanted, err := without(data, cni.Type)
	if err != nil {
		i.broken(file, err)
		return nil
	}
	if bytes.Equal(wanted, data) {
		return nil
	}
	if err := replace(file, data, wanted); err != nil {
		return err
	}
	i.cfg.Log.Info("the CNI plugin was taken out of a chain", "file", file)
	return nil
}

// Uninstall takes the plugin out of every chain, puts back what Ensure has set
// aside, and removes the program. It may be called again, and without Ensure.
func (i *Installer) Uninstall() error {
	if err := i.repeat(i.uninstall); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(i.cfg.BinDir, cni.Type)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the plugin: %w", err)
	}
	return nil
}

func (i *Installer) uninstall() error {
	saved, err := filepath.Glob(filepath.Join(i.cfg.NetDir, "*"+savedSuffix))
	if err != nil {
		return err
	}
	for _, s := range saved {
		if err := i.putBack(strings.TrimSuffix(s, savedSuffix)); err != nil {
			return err
		}
	}
	files, err := libcni.ConfFiles(i.cfg.NetDir, extensions)
	if err != nil {
		return fmt.Errorf("list %s: %w", i.cfg.NetDir, err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if err := i.takeOut(file, data); err != nil {
			return err
		}
	}
	return nil
}

// putBack restores a configuration, unless its author has written a new one.
func (i *Installer) putBack(file string) error {
	err := renameNew(file+savedSuffix, file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the list is somebody else's, or nothing was set aside
	}
	if errors.Is(err, fs.ErrExist) {
		err = os.Remove(file + savedSuffix)
	}
	if err != nil {
		return fmt.Errorf("put back %s: %w", file, err)
	}
	if err := os.Remove(file + madeSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the chain made of %s: %w", file, err)
	}
	i.cfg.Log.Info("the configuration of one CNI plugin was put back", "file", file)
	return nil
}

func (i *Installer) broken(file string, err error) {
	if i.said[file] != err.Error() {
		i.said[file] = err.Error()
		i.cfg.Log.Warn("a CNI configuration cannot be read and is left alone", "file", file, "err", err)
	}
}

func (i *Installer) mended(file string) { delete(i.said, file) }
