// Package deploy has what is installed on a Kubernetes cluster: the Helm chart, and
// what Helm's own engine makes of it.
package deploy

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"strings"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/releaseutil"
	"helm.sh/helm/v3/pkg/strvals"
)

//go:embed all:helm/duomesh
var files embed.FS

const chartDir = "helm/duomesh"

// Release is one installation of the chart.
type Release struct {
	// Name and Namespace are as with helm.
	Name, Namespace string
	// Values are YAML files of values, the later before the earlier; Set is
	// helm's --set, before all of them, and SetString its --set-string, before that.
	Values         [][]byte
	Set, SetString []string
}

// Render returns the manifests, each one YAML document, in the order in which Helm
// installs them. A value that the chart does not know is no error: Helm takes it, too.
func (r Release) Render() ([]string, error) {
	c, err := load()
	if err != nil {
		return nil, err
	}
	values, err := r.values()
	if err != nil {
		return nil, err
	}
	options := chartutil.ReleaseOptions{Name: r.Name, Namespace: r.Namespace, Revision: 1, IsInstall: true}
	all, err := chartutil.ToRenderValues(c, values, options, chartutil.DefaultCapabilities)
	if err != nil {
		return nil, fmt.Errorf("values of the chart: %w", err)
	}
	rendered, err := engine.Render(c, all)
	if err != nil {
		return nil, fmt.Errorf("render the chart: %w", err)
	}
	maps.DeleteFunc(rendered, func(name, _ string) bool {
		return strings.HasSuffix(name, "NOTES.txt") || strings.Contains(name, "/_")
	})
	hooks, manifests, err := releaseutil.SortManifests(rendered, nil, releaseutil.InstallOrder)
	if err != nil {
		return nil, fmt.Errorf("order the manifests: %w", err)
	}
	if len(hooks) > 0 {
		return nil, errors.New("the chart has hooks, which nobody here runs")
	}
	var documents []string
	for _, m := range manifests {
		documents = append(documents, m.Content)
	}
	return documents, nil
}

func (r Release) values() (map[string]any, error) {
	values := map[string]any{}
	for _, text := range r.Values {
		more, err := chartutil.ReadValues(text)
		if err != nil {
			return nil, fmt.Errorf("read values: %w", err)
		}
		values = chartutil.CoalesceTables(more, values)
	}
	for _, s := range r.Set {
		if err := strvals.ParseInto(s, values); err != nil {
			return nil, fmt.Errorf("--set %s: %w", s, err)
		}
	}
	for _, s := range r.SetString {
		if err := strvals.ParseIntoString(s, values); err != nil {
			return nil, fmt.Errorf("--set-string %s: %w", s, err)
		}
	}
	return values, nil
}

func load() (*chart.Chart, error) {
	var buffered []*loader.BufferedFile
	err := fs.WalkDir(files, chartDir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := files.ReadFile(path)
		buffered = append(buffered, &loader.BufferedFile{Name: strings.TrimPrefix(path, chartDir+"/"), Data: data})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the chart: %w", err)
	}
	c, err := loader.LoadFiles(buffered)
	if err != nil {
		return nil, fmt.Errorf("read the chart: %w", err)
	}
	return c, nil
}
