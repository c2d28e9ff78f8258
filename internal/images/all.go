package images

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Sources is where what goes into the images lies.
type Sources struct {
	// Bin has our static programs: duomesh-agent, duomesh-cni, duomesh-waypoint,
	// fortio.
	Bin string
	// Root is a tree that Debian packages were unpacked to: curl, busybox-static and
	// the C library.
	Root string
	// Istiod and Envoy are programs; "" leaves the images out that need them.
	Istiod, Envoy string
	// Tag is that of all images.
	Tag string
}

// Left is an image that was not built, and why.
type Left struct{ Name, Why string }

// unprivileged is the user of images that need no right; istiod's templates run
// waypoints as it.
const unprivileged = "1337:1337"

// All returns the images that the sources allow, and those that they do not.
func All(s Sources) (specs []Spec, left []Left, err error) {
	for _, image := range []func(Sources) (Spec, error){agentImage, fortioImage, netutilsImage, istiodImage, waypointImage} {
		spec, err := image(s)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			left = append(left, Left{spec.Name, err.Error()})
		case err != nil:
			return nil, nil, fmt.Errorf("image %s: %w", spec.Name, err)
		default:
			specs = append(specs, spec)
		}
	}
	return specs, left, nil
}

func (s Sources) name(image string) string { return "duomesh/" + image + ":" + s.Tag }

// program reads a static program of Bin.
func (s Sources) program(name, to string) (File, error) {
	data, err := os.ReadFile(filepath.Join(s.Bin, name))
	return File{Path: to, Data: data, Mode: 0o755, Static: true}, err
}

// agentImage has the plugin beside the agent, which copies it to the node. It is
// root: it loads BPF programs.
func agentImage(s Sources) (Spec, error) {
	spec := Spec{Name: s.name("duomesh-agent"), Entrypoint: []string{"/usr/local/bin/duomesh-agent"}}
	agent, err := s.program("duomesh-agent", "/usr/local/bin/duomesh-agent")
	if err != nil {
		return spec, err
	}
	plugin, err := s.program("duomesh-cni", "/usr/local/bin/duomesh-cni")
	spec.Files = []File{agent, plugin, {Path: "/tmp", Dir: true, Mode: 0o1777}}
	return spec, err
}

func fortioImage(s Sources) (Spec, error) {
	spec := Spec{Name: s.name("fortio"), Entrypoint: []string{"/usr/bin/fortio"}, Cmd: []string{"server"}, User: unprivileged}
	server, err := s.program("fortio", "/usr/bin/fortio")
	spec.Files = []File{server}
	return spec, err
}

// tools are the names under which busybox is called in netutils.
var tools = []string{"sh", "sleep", "cat", "grep", "ls", "nc", "nslookup", "ping", "wget", "env", "id", "seq", "sort", "uniq", "awk", "sed", "head", "tail", "wc", "date", "ip", "tr", "rm", "touch", "kill"}

// netutilsImage has Debian's own curl, and busybox as a shell.
func netutilsImage(s Sources) (Spec, error) {
	spec := Spec{Name: s.name("netutils"), Entrypoint: []string{"/bin/sleep"}, Cmd: []string{"infinity"}, User: unprivileged}
	files, err := Closure(s.Root, map[string]string{
		"/usr/bin/curl": filepath.Join(s.Root, "usr/bin/curl"), "/bin/busybox": filepath.Join(s.Root, "bin/busybox"),
	})
	if err != nil {
		return spec, err
	}
	for _, t := range tools {
		files = append(files, File{Path: "/bin/" + t, Link: "busybox"})
	}
	spec.Files = append(files, accounts()...)
	return spec, nil
}

// accounts name the users, for programs that ask.
func accounts() []File {
	return []File{
		{Path: "/etc/passwd", Data: []byte("root:x:0:0:root:/:/bin/sh\nuser:x:1337:1337:user:/:/bin/sh\n"), Mode: 0o644},
		{Path: "/etc/group", Data: []byte("root:x:0:\nuser:x:1337:\n"), Mode: 0o644},
		{Path: "/tmp", Dir: true, Mode: 0o1777},
	}
}

func istiodImage(s Sources) (Spec, error) {
	spec := Spec{Name: s.name("istiod"), Entrypoint: []string{"/usr/local/bin/pilot-discovery"}, User: unprivileged}
	if s.Istiod == "" {
		return spec, fmt.Errorf("no istiod was given: %w", fs.ErrNotExist)
	}
	data, err := os.ReadFile(s.Istiod)
	spec.Files = append(accounts(), File{Path: "/usr/local/bin/pilot-discovery", Data: data, Mode: 0o755, Static: true})
	return spec, err
}

// waypointImage stands in the Deployment that istiod makes of a Gateway: its
// entry process takes istiod's own arguments, its root file system is read-only,
// and what Deployments mount is writable.
func waypointImage(s Sources) (Spec, error) {
	spec := Spec{
		Name: s.name("duomesh-waypoint"), Entrypoint: []string{"/usr/local/bin/duomesh-waypoint"}, User: unprivileged,
		// Nothing of the image itself can be written to there.
		Env: []string{"ENVOY_BIN=/usr/local/bin/envoy", "TMPDIR=/etc/istio/proxy"},
	}
	entry, err := s.program("duomesh-waypoint", "/usr/local/bin/duomesh-waypoint")
	if err != nil {
		return spec, err
	}
	if s.Envoy == "" {
		return spec, fmt.Errorf("no Envoy was given: %w", fs.ErrNotExist)
	}
	files, err := Closure(s.Root, map[string]string{"/usr/local/bin/envoy": s.Envoy})
	if err != nil {
		return spec, err
	}
	spec.Files = append(append(files, entry), accounts()...)
	for _, dir := range []string{"/var/lib/istio/data", "/etc/istio/proxy", "/var/run/secrets/workload-spiffe-uds"} {
		spec.Files = append(spec.Files, File{Path: dir, Dir: true, Mode: 0o1777})
	}
	return spec, nil
}
