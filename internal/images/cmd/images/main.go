// Command images builds the images of this repository into archives; scripts/images.sh
// says from what.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/duomesh/duomesh/internal/images"
)

func main() {
	if err := run(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

func run(to io.Writer) error {
	var s images.Sources
	var a images.AmbientSources
	var node string
	flag.StringVar(&s.Bin, "bin", "", "`DIR` of our programs")
	flag.StringVar(&s.Root, "root", "", "`DIR` that Debian packages were unpacked to")
	flag.StringVar(&s.Istiod, "istiod", "", "`FILE` that is istiod")
	flag.StringVar(&s.Envoy, "envoy", "", "`FILE` that is Envoy")
	flag.StringVar(&s.Tag, "tag", "", "`TAG` of all images")
	flag.StringVar(&node, "node", "", "build those of a kind node instead: their `NAMES`, as kubeadm lists them, with spaces between")
	flag.StringVar(&a.Ztunnel, "ztunnel", "", "`FILE` that is ztunnel: build the images of Istio Ambient instead, istio-cni of what is in -bin")
	out := flag.String("o", "", "`DIR` for the archives")
	flag.Parse()
	if s.Bin == "" || (s.Tag == "") == (node == "") || *out == "" || flag.NArg() > 0 {
		return fmt.Errorf("want -bin DIR -o DIR, and -tag TAG or -node NAMES")
	}
	specs, left, err := choose(s, a, node)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(*out, 0o755); err != nil {
		return err
	}
	used := map[string]bool{}
	for _, spec := range specs {
		if err := write(to, filepath.Join(*out, archive(spec.Name, used)), spec); err != nil {
			return err
		}
	}
	for _, l := range left {
		fmt.Fprintf(to, "NOT BUILT %s: %s\n", l.Name, l.Why)
	}
	return nil
}

func choose(s images.Sources, a images.AmbientSources, node string) (specs []images.Spec, left []images.Left, err error) {
	switch {
	case node != "":
		specs, err = images.Node(images.NodeSources{Bin: s.Bin, Root: s.Root, Names: strings.Fields(node)})
	case a.Ztunnel != "":
		a.Plugin, a.Agent = filepath.Join(s.Bin, "istio-cni"), filepath.Join(s.Bin, "install-cni")
		a.Root, a.Tag = s.Root, s.Tag
		specs, err = images.Ambient(a)
	default:
		return images.All(s)
	}
	return specs, nil, err
}

// archive is the name of an image's file, with its tag only where another has the name.
func archive(image string, used map[string]bool) string {
	base := filepath.Base(image)
	name, tag, _ := strings.Cut(base, ":")
	if used[name] {
		name += "-" + tag
	}
	used[name] = true
	return name + ".tar"
}

func write(to io.Writer, file string, spec images.Spec) error {
	img, err := images.Build(spec)
	if err != nil {
		return err
	}
	digest, err := img.Digest()
	if err != nil {
		return err
	}
	if err := images.Write(file, spec, img); err != nil {
		return err
	}
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	fmt.Fprintf(to, "%s\t%s\t%s\t%.1f MB\n", file, spec.Name, digest, float64(info.Size())/1e6)
	return nil
}
