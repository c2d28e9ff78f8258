package vmtest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// apt is a package source: that of this machine, or another release of the
// distribution with lists of its own. Nothing of the machine's apt is changed.
type apt struct {
	// dir has the settings of an own source; empty: the machine's.
	dir string
}

// fetchDeb unpacks the kernel that a package is or depends on.
func fetchDeb(ctx context.Context, s Source, cache string) (Tree, error) {
	a, err := newApt(ctx, s.Suite, cache)
	if err != nil {
		return Tree{}, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	packages, err := a.kernelPackages(ctx, s.Deb)
	if err != nil {
		return Tree{}, err
	}
	version, err := a.candidate(ctx, packages[0])
	if err != nil {
		return Tree{}, err
	}
	dir := filepath.Join(cache, packages[0]+"_"+strings.ReplaceAll(version, ":", "%"))
	if err := once(dir, func(scratch string) error { return a.unpack(ctx, packages, scratch) }); err != nil {
		return Tree{}, err
	}
	var images []string
	for _, pattern := range []string{"boot/vmlinuz-*", "lib/modules/*/vmlinuz", "usr/lib/modules/*/vmlinuz"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return Tree{}, err
		}
		images = append(images, found...)
	}
	if len(images) != 1 {
		return Tree{}, fmt.Errorf("package %s has %d kernel images, must have one", packages[0], len(images))
	}
	return treeOf(images[0], dir)
}

// listsAge is how old the lists of an own source may be before they are fetched
// again.
const listsAge = 24 * time.Hour

// newApt returns the machine's source, or, for a suite, one with the machine's own
// mirror of the distribution and lists in the cache.
func newApt(ctx context.Context, suite, cache string) (apt, error) {
	if suite == "" {
		return apt{}, nil
	}
	dir, err := filepath.Abs(filepath.Join(cache, "apt", suite))
	if err != nil {
		return apt{}, err
	}
	a := apt{dir: dir}
	if st, err := os.Stat(a.stamp()); err == nil && time.Since(st.ModTime()) < listsAge {
		return a, nil
	}
	mirror, err := mirrorOf(ctx)
	if err == nil {
		err = a.configure(suite, mirror)
	}
	if err == nil {
		_, err = a.run(ctx, "", "apt-get", "update", "-q")
	}
	if err != nil {
		if _, old := os.Stat(a.stamp()); old == nil {
			return a, nil // the lists of an earlier day will do
		}
		return a, fmt.Errorf("package source %s: %w", suite, err)
	}
	return a, os.WriteFile(a.stamp(), nil, 0o644)
}

func (a apt) stamp() string { return filepath.Join(a.dir, "updated") }

// keyring is what Debian signs its releases with, of package
// debian-archive-keyring.
const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// debian is where everybody has Debian from who has no source of it.
const debian = "https://deb.debian.org/debian"

// mirrorOf asks apt where this machine has Debian from: one of Ubuntu has no source of it.
func mirrorOf(ctx context.Context) (string, error) {
	out, err := output(ctx, "", "apt-get", "indextargets",
		"--format", "$(ORIGIN) $(COMPONENT) $(REPO_URI)", "Created-By: Packages")
	if err != nil {
		return "", err
	}
	return mirrorAmong(string(out)), nil
}

// mirrorAmong chooses from lines "ORIGIN COMPONENT URI".
func mirrorAmong(targets string) string {
	for line := range strings.Lines(targets) {
		uri, ok := strings.CutPrefix(strings.TrimSpace(line), "Debian main ")
		if ok && !strings.Contains(uri, "security") {
			return uri
		}
	}
	return debian
}

func (a apt) configure(suite, mirror string) error {
	for _, dir := range []string{"lists/partial", "cache/archives/partial", "sources"} {
		if err := os.MkdirAll(filepath.Join(a.dir, dir), 0o755); err != nil {
			return err
		}
	}
	source := fmt.Sprintf("Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: %s\n", mirror, suite, keyring)
	if err := os.WriteFile(filepath.Join(a.dir, "sources", "kernels.sources"), []byte(source), 0o644); err != nil {
		return err
	}
	settings := []string{
		`Dir::Etc::SourceList "/dev/null"`,
		fmt.Sprintf("Dir::Etc::SourceParts %q", filepath.Join(a.dir, "sources")),
		fmt.Sprintf("Dir::State::Lists %q", filepath.Join(a.dir, "lists")),
		fmt.Sprintf("Dir::Cache %q", filepath.Join(a.dir, "cache")),
		`Acquire::Languages "none"`,
		`APT::Architecture "amd64"`,
		`APT::Architectures "amd64"`,
	}
	return os.WriteFile(a.config(), []byte(strings.Join(settings, ";\n")+";\n"), 0o644)
}

func (a apt) config() string { return filepath.Join(a.dir, "apt.conf") }

// run runs one of apt's commands with the source's own settings.
func (a apt) run(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	// As root, and not as apt's own user, which may not write here.
	own := []string{"-o", "APT::Sandbox::User=root"}
	if a.dir != "" {
		own = append(own, "-c", a.config())
	}
	return output(ctx, dir, name, append(own, args...)...)
}

// kernelDependency is a line of `apt-cache depends` that names a part of a kernel:
// since Linux 7 Debian has image and modules in packages of their own.
var kernelDependency = regexp.MustCompile(`^\s*(?:Pre)?Depends: (linux-(?:image|binary|modules)-\S+)$`)

// kernelPackages follows a package to those that a kernel is made of. The first is
// the one whose version is the kernel's.
func (a apt) kernelPackages(ctx context.Context, name string) ([]string, error) {
	packages := []string{name}
	for i := 0; i < len(packages); i++ {
		out, err := a.run(ctx, "", "apt-cache", "depends", "--important", packages[i])
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
		}
		for line := range strings.Lines(string(out)) {
			m := kernelDependency.FindStringSubmatch(strings.TrimRight(line, "\n"))
			if m != nil && !slices.Contains(packages, m[1]) {
				packages = append(packages, m[1])
			}
		}
	}
	// The name without a release is a way to the others.
	parts := slices.DeleteFunc(packages, func(p string) bool { return !release3.MatchString(p) })
	if len(parts) == 0 {
		return nil, fmt.Errorf("%w: apt knows no kernel that package %s depends on (apt-get update may help)", ErrUnreachable, name)
	}
	return parts, nil
}

// release3 finds a kernel's release in the name of a package.
var release3 = regexp.MustCompile(`-\d+\.\d+\.\d+`)

func (a apt) candidate(ctx context.Context, pkg string) (string, error) {
	out, err := a.run(ctx, "", "apt-cache", "policy", pkg)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	for line := range strings.Lines(string(out)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "Candidate: "); ok && v != "(none)" {
			return v, nil
		}
	}
	return "", fmt.Errorf("%w: apt offers no package %s (apt-get update may help)", ErrUnreachable, pkg)
}

// unpack downloads packages and unpacks them into dir.
func (a apt) unpack(ctx context.Context, packages []string, dir string) error {
	if _, err := a.run(ctx, dir, "apt-get", append([]string{"download", "-q"}, packages...)...); err != nil {
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(debs) != len(packages) {
		return fmt.Errorf("download of %s: %d packages arrived", strings.Join(packages, ", "), len(debs))
	}
	for _, deb := range debs {
		if _, err := output(ctx, dir, "dpkg-deb", "-x", deb, dir); err != nil {
			return err
		}
		if err := os.Remove(deb); err != nil {
			return err
		}
	}
	return nil
}
