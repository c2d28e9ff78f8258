package images

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// NodeSources is where what the pods of an air-gapped kind node run lies.
type NodeSources struct {
	// Bin has static programs: those of Kubernetes, etcd, coredns, pause and podnet.
	Bin string
	// Root is a tree that Debian packages were unpacked to: iptables, nftables,
	// conntrack, iproute2.
	Root string
	// Names are those of the images, as kubeadm lists them.
	Names []string
}

// Node returns an image of each name: one program, which is called as the image is.
func Node(s NodeSources) ([]Spec, error) {
	if len(s.Names) == 0 {
		return nil, errors.New("no image was named")
	}
	var specs []Spec
	for _, name := range s.Names {
		spec, err := s.image(name)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", name, err)
		}
		specs = append(specs, spec)
	}
	return specs, nil
}

func (s NodeSources) image(name string) (Spec, error) {
	program, _, tagged := strings.Cut(path.Base(name), ":")
	if !tagged {
		return Spec{}, errors.New("it has no tag")
	}
	data, err := os.ReadFile(filepath.Join(s.Bin, program))
	if err != nil {
		return Spec{}, err
	}
	at := "/usr/local/bin/" + program
	spec := Spec{Name: name, Entrypoint: []string{at}}
	spec.Files = append(accounts(), File{Path: at, Data: data, Mode: 0o755, Static: true})
	if program != "kube-proxy" {
		return spec, nil
	}
	files, err := s.netfilter()
	spec.Files = append(spec.Files, files...)
	return spec, err
}

// netfilter is what kube-proxy calls. iptables loads its extensions by name, so no
// program names what they need: a library that is missing there fails a rule, and
// with it a service.
func (s NodeSources) netfilter() ([]File, error) {
	programs := map[string]string{}
	for _, p := range []string{"usr/sbin/xtables-nft-multi", "usr/sbin/nft", "usr/sbin/conntrack", "bin/ip"} {
		programs["/"+p] = filepath.Join(s.Root, p)
	}
	extensions, err := filepath.Glob(filepath.Join(s.Root, "usr/lib/*/xtables/*.so"))
	if err != nil || len(extensions) == 0 {
		return nil, errors.Join(err, fmt.Errorf("no extensions of iptables below %s", s.Root))
	}
	for _, from := range extensions {
		to, err := filepath.Rel(s.Root, from)
		if err != nil {
			return nil, err
		}
		programs["/"+to] = from
	}
	files, err := Closure(s.Root, programs)
	if err != nil {
		return nil, err
	}
	for _, family := range []string{"iptables", "ip6tables"} {
		for _, command := range []string{"", "-save", "-restore"} {
			files = append(files, File{Path: "/usr/sbin/" + family + command, Link: "xtables-nft-multi"})
		}
	}
	return files, nil
}
