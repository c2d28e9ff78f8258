// Command helm renders a chart as `helm template` does, with Helm's own engine, and
// prints its manifests in the order in which Helm installs them.
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/releaseutil"
	"helm.sh/helm/v3/pkg/strvals"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "helm:", err)
		os.Exit(1)
	}
}

// values are those of --set, in helm's own form.
type values map[string]any

// String implements flag.Value.
func (values) String() string { return "" }

// Set implements flag.Value.
func (v values) Set(s string) error { return strvals.ParseInto(s, v) }

func run() error {
	set := values{}
	chartDir := flag.String("chart", "", "`DIR` of the chart")
	release := flag.String("release", "duomesh", "`NAME` of the release")
	namespace := flag.String("namespace", "duomesh-system", "`NAME` of the release's namespace")
	flag.Var(set, "set", "`KEY=VALUE`, as helm's; may be repeated")
	flag.Parse()
	if *chartDir == "" || flag.NArg() > 0 {
		return fmt.Errorf("want --chart DIR [--set KEY=VALUE]…")
	}
	c, err := loader.Load(*chartDir)
	if err != nil {
		return err
	}
	options := chartutil.ReleaseOptions{Name: *release, Namespace: *namespace, Revision: 1, IsInstall: true}
	render, err := chartutil.ToRenderValues(c, set, options, chartutil.DefaultCapabilities)
	if err != nil {
		return err
	}
	files, err := engine.Render(c, render)
	if err != nil {
		return err
	}
	for name := range files {
		if strings.HasSuffix(name, "NOTES.txt") || strings.Contains(name, "/_") {
			delete(files, name)
		}
	}
	hooks, manifests, err := releaseutil.SortManifests(files, nil, releaseutil.InstallOrder)
	if err != nil {
		return err
	}
	if len(hooks) > 0 {
		return fmt.Errorf("the chart has %d hooks, which plain manifests cannot express", len(hooks))
	}
	for _, m := range manifests {
		fmt.Printf("---\n%s\n", strings.TrimSpace(m.Content))
	}
	return nil
}
