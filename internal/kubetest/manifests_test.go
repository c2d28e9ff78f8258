package kubetest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// repository is the module's directory.
const repository = "../.."

// moduleDir is where a module of tools/controlplane is.
func moduleDir(t *testing.T, module string) string {
	t.Helper()
	out, err := exec.Command("go", "-C", filepath.Join(repository, "tools/controlplane"), "list", "-m", "-f", "{{.Dir}}", module).Output()
	dir := strings.TrimSpace(string(out))
	if err != nil || dir == "" {
		t.Skipf("NOT RUN: module %s with its definitions is not here: make controlplane fetches it", module)
	}
	return dir
}

func namespaces(t *testing.T, s *Server, names ...string) {
	t.Helper()
	for _, name := range names {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		_, err := s.Client.CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{})
		must(t, err)
	}
}

// TestManifestsApply holds what we ship against a real API server, strictly.
func TestManifestsApply(t *testing.T) {
	t.Parallel()
	s := Start(t)
	istio, gateway := moduleDir(t, "istio.io/istio"), moduleDir(t, "sigs.k8s.io/gateway-api")
	namespaces(t, s, "duomesh-system", "istio-system")
	s.Define(t, filepath.Join(istio, "manifests/charts/base/files/crd-all.gen.yaml"))
	definitions, err := filepath.Glob(filepath.Join(gateway, "config/crd/standard/*.yaml"))
	must(t, err)
	for _, file := range definitions {
		s.Define(t, file)
	}
	files := []string{filepath.Join(repository, "deploy/manifests/duomesh.yaml")}
	samples, err := filepath.Glob(filepath.Join(repository, "samples/fortio/*.yaml"))
	must(t, err)
	if len(samples) == 0 {
		t.Error("there are no samples")
	}
	for _, file := range append(files, samples...) {
		t.Run(filepath.Base(file), func(t *testing.T) {
			all := Objects(t, file)
			if len(all) == 0 {
				t.Error("it is empty")
			}
			for _, o := range all {
				if err := s.DryRun(t.Context(), o); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestStrictly is the negative control: what the API server would drop in silence,
// or does not know, is refused by name.
func TestStrictly(t *testing.T) {
	t.Parallel()
	s := Start(t)
	namespaces(t, s, "duomesh-system")
	var set *unstructured.Unstructured
	for _, o := range Objects(t, filepath.Join(repository, "deploy/manifests/duomesh.yaml")) {
		if o.GetKind() == "DaemonSet" {
			set = o
		}
	}
	must(t, s.DryRun(t.Context(), set))
	for name, c := range map[string]struct {
		spoil func(o map[string]any) error
		want  string
	}{
		"a variable among the volumes": {func(o map[string]any) error {
			volumes, _, err := unstructured.NestedSlice(o, "spec", "template", "spec", "volumes")
			if err != nil {
				return err
			}
			volumes = append(volumes, map[string]any{"name": "XDS_ADDRESS", "value": "istiod:15012"})
			return unstructured.SetNestedSlice(o, volumes, "spec", "template", "spec", "volumes")
		}, `field not declared in schema`},
		"a misspelt field": {func(o map[string]any) error {
			return unstructured.SetNestedField(o, true, "spec", "template", "spec", "hostNet")
		}, "hostNet"},
		"no selector": {func(o map[string]any) error {
			unstructured.RemoveNestedField(o, "spec", "selector")
			return nil
		}, "`selector` does not match template `labels`"},
	} {
		broken := set.DeepCopy()
		must(t, c.spoil(broken.Object))
		err := s.DryRun(t.Context(), broken)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

var built bool // by renderer

// renderer is tools/helm, built once; TestMain removes it.
var renderer = sync.OnceValues(func() (string, error) {
	built = true
	dir, err := os.MkdirTemp("", "duomesh-kubetest-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "helm")
	out, err := exec.Command("go", "-C", filepath.Join(repository, "tools/helm"), "build", "-o", path, ".").CombinedOutput()
	if err != nil {
		return "", errors.Join(fmt.Errorf("%w: %s", err, out), os.RemoveAll(dir))
	}
	return path, nil
})

func helm(t *testing.T) string {
	t.Helper()
	path, err := renderer()
	if err != nil {
		t.Skipf("NOT RUN: tools/helm cannot be built: %v", err)
	}
	return path
}

// chart renders the chart with Helm's own engine.
func chart(t *testing.T, set ...string) ([]byte, error) {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(repository, "deploy/helm/duomesh"))
	must(t, err)
	args := []string{"-chart", path}
	for _, s := range set {
		args = append(args, "-set", s)
	}
	out, err := exec.Command(helm(t), args...).Output()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		err = errors.New(string(failed.Stderr))
	}
	return out, err
}

// TestMain removes what was built for the tests.
func TestMain(m *testing.M) {
	code := m.Run()
	if built {
		if path, err := renderer(); err == nil {
			os.RemoveAll(filepath.Dir(path))
		}
	}
	os.Exit(code)
}

// TestChart holds other values than the default against a real API server.
func TestChart(t *testing.T) {
	t.Parallel()
	s := Start(t)
	namespaces(t, s, "duomesh-system", "istio-system")
	for name, c := range map[string]struct {
		set  []string
		has  []string
		less []string
	}{
		"the default": {nil, []string{"istiod.istio-system.svc:15012", "--install-cni", "duomesh-waypoint-defaults"}, []string{"ISTIO_META_NETWORK"}},
		"a revisioned istiod": {
			[]string{"xdsAddress=istiod-1-22-6.istio-system.svc:15012", "clusterId=cluster-id"},
			[]string{"istiod-1-22-6.istio-system.svc:15012", "cluster-id"}, []string{"istiod.istio-system.svc:15012"},
		},
		"larger maps":      {[]string{"maximum.slots=1000000"}, []string{"--max-slots=1000000"}, []string{"--max-pods"}},
		"without a plugin": {[]string{"cni.enabled=false"}, []string{"--kubernetes"}, []string{"cni"}},
		"a network, no waypoints": {
			[]string{"network=net-1", "waypoint.enabled=false", "extraArgs={--handoff=proxy-v2}", "image.tag=v7"},
			[]string{"ISTIO_META_NETWORK", "--handoff=proxy-v2", "duomesh-agent:v7"}, []string{"duomesh-waypoint-defaults"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := chart(t, c.set...)
			must(t, err)
			all, err := Parse(out)
			must(t, err)
			for _, o := range all {
				if err := s.DryRun(t.Context(), o); err != nil {
					t.Error(err)
				}
			}
			for _, word := range c.has {
				if !strings.Contains(string(out), word) {
					t.Errorf("it lacks %s", word)
				}
			}
			for _, word := range c.less {
				if strings.Contains(string(out), word) {
					t.Errorf("it has %s", word)
				}
			}
		})
	}
}

// TestChartRefuses names values that are none.
func TestChartRefuses(t *testing.T) {
	for set, want := range map[string]string{
		"xdsAddress=istiod":       "xdsAddress",
		"cni.agentAbsent=perhaps": "agentAbsent",
		"clusterID=x":             "clusterID",
		"maximum.slots=0":         "slots",
	} {
		if _, err := chart(t, set); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", set, err)
		}
	}
}
