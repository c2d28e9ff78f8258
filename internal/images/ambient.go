package images

import (
	"fmt"
	"os"
)

// AmbientSources is where the programs of Istio Ambient's nodes lie.
type AmbientSources struct {
	// Plugin is Istio's CNI plugin, Agent the node agent that installs it and redirects
	// pods, Ztunnel the node proxy.
	Plugin, Agent, Ztunnel string
	// Root is a tree that Debian packages were unpacked to: iptables, nftables,
	// conntrack, iproute2, and the C library.
	Root string
	// Tag is that of both images.
	Tag string
}

// Ambient returns the images istio-cni and ztunnel. Both run as root: Istio's charts
// say with which capabilities.
func Ambient(s AmbientSources) ([]Spec, error) {
	var specs []Spec
	for _, image := range []func(AmbientSources) (Spec, error){istioCNIImage, ztunnelImage} {
		spec, err := image(s)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", spec.Name, err)
		}
		specs = append(specs, spec)
	}
	return specs, nil
}

// istioCNIImage has the plugin where the agent copies it from, and for the agent what
// kube-proxy has: iptables. Over nsswitch.conf the agent mounts an empty file, so that
// iptables asks nobody for names.
func istioCNIImage(s AmbientSources) (Spec, error) {
	spec := Spec{Name: Sources{Tag: s.Tag}.name("istio-cni"), Entrypoint: []string{"/usr/local/bin/install-cni"}}
	files, err := NodeSources{Root: s.Root}.netfilter()
	if err != nil {
		return spec, err
	}
	for to, from := range map[string]string{"/opt/cni/bin/istio-cni": s.Plugin, "/usr/local/bin/install-cni": s.Agent} {
		data, err := os.ReadFile(from)
		if err != nil {
			return spec, err
		}
		files = append(files, File{Path: to, Data: data, Mode: 0o755, Static: true})
	}
	files = append(files, File{Path: "/etc/nsswitch.conf", Data: []byte("passwd: files\n"), Mode: 0o644}, File{Path: "/run", Dir: true, Mode: 0o755})
	spec.Files = append(files, accounts()...)
	return spec, nil
}

// ztunnelImage has a ztunnel with the libraries that it was linked with.
func ztunnelImage(s AmbientSources) (Spec, error) {
	const at = "/usr/local/bin/ztunnel"
	spec := Spec{Name: Sources{Tag: s.Tag}.name("ztunnel"), Entrypoint: []string{at}}
	files, err := Closure(s.Root, map[string]string{at: s.Ztunnel})
	spec.Files = append(files, accounts()...)
	return spec, err
}
