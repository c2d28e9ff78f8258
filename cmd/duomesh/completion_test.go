package main

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"

	"github.com/duomesh/duomesh/internal/cluster"
)

// completed is what a shell is told for a line whose last word is begun: names, and
// whether files are completed.
func completed(t *testing.T, line ...string) (names []string, files bool) {
	t.Helper()
	cmd := duomesh(t, append([]string{"__complete"}, line...)...)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v", line, err)
	}
	for text := range strings.Lines(string(out)) {
		text = strings.TrimSpace(text)
		if number, is := strings.CutPrefix(text, ":"); is {
			n, err := strconv.Atoi(number)
			if err != nil {
				t.Fatal(err)
			}
			return names, cobra.ShellCompDirective(n)&cobra.ShellCompDirectiveNoFileComp == 0
		}
		name, _, _ := strings.Cut(text, "\t")
		names = append(names, name)
	}
	t.Fatalf("%v: no directive in %s", line, out)
	return nil, false
}

// Names are completed where a name is meant, and files where a file is.
func TestCompletion(t *testing.T) {
	t.Setenv("KUBECONFIG", "")
	run := "--run-dir=" + t.TempDir()
	for line, want := range map[string]string{
		"verify clusterip/weight/90":           "clusterip/weight/90-10",
		"verify clusterip/weight/90-10 nobody": "",
		"enroll ":                              "namespace pod",
		"enroll namespace ":                    "",
		"install ":                             "",
		"install --dry-run ":                   "client server",
		"waypoint apply --for ":                "all service workload",
		"status -o ":                           "json table yaml",
		"probe --output ":                      "json text",
		"status --cluster ":                    "",
		"netsim start etc":                     "etcd",
		"install --timeout ":                   "",
		"install --set ":                       "",
	} {
		words := strings.Split(line, " ")
		if strings.HasPrefix(line, "netsim") || strings.HasPrefix(line, "status") {
			words = append([]string{words[0], run}, words[1:]...)
		}
		got, files := completed(t, words...)
		slices.Sort(got)
		if strings.Join(got, " ") != want || files {
			t.Errorf("%q: %q, files %v; want %q", line, got, files, want)
		}
	}
	for _, line := range []string{"install --values ", "install -f ", "status --kubeconfig ", "verify -f ", "netsim up -f ", "verify --evidence ", "bench report ", "netsim exec client -- "} {
		if got, files := completed(t, strings.Split(line, " ")...); len(got) > 0 || !files {
			t.Errorf("%q: %q, files %v; want files", line, got, files)
		}
	}
}

// What a cluster has is completed from it.
func TestCompletionOfACluster(t *testing.T) {
	k := startKubeCLI(t) // and sets this process's KUBECONFIG
	k.defineKinds()
	k.makeNamespace("shop")
	k.makeNode("worker-1", corev1.ConditionTrue)
	k.makePod("shop", "web-0", "worker-1", nil, runs)
	k.apply(cluster.Waypoint("shop", "way", ""), user("v1", "Service", "shop", "web", servicePort, nil))
	t.Setenv("KUBECONFIG", k.kubeconfig)
	run := "--run-dir=" + t.TempDir() // nothing simulated
	for line, want := range map[string]string{
		"enroll namespace sh":                     "shop",
		"enroll pod -n shop ":                     "web-0",
		"install --namespace sh":                  "shop",
		"status --node ":                          "worker-1",
		"uninstall --node ":                       "worker-1",
		"waypoint delete -n shop ":                "way",
		"waypoint delete -n shop way ":            "",
		"waypoint status -n shop ":                "way",
		"waypoint stats -n shop --waypoint ":      "way",
		"waypoint config -n shop way --pod ":      "web-0",
		"waypoint apply -n shop --service ":       "web",
		"explain --from shop/":                    "shop/web-0",
		"probe --pod shop/":                       "shop/web-0",
		"status --context ":                       "x",
		"waypoint list --kubeconfig /no -n sh":    "",
		"waypoint list --context nowhere -n shop": "",
	} {
		words := strings.Split(line, " ")
		if slices.Contains([]string{"status", "waypoint", "explain", "probe"}, words[0]) {
			words = append([]string{words[0], run}, words[1:]...)
		}
		got, files := completed(t, words...)
		if strings.Join(got, " ") != want || files {
			t.Errorf("%q: %q, files %v; want %q", line, got, files, want)
		}
	}
}

// Every command and flag is thought of: none completes files by accident.
func TestNothingCompletesFilesByAccident(t *testing.T) {
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Name() == "help" || c.Name() == "completion" {
			return
		}
		if c.Runnable() && !c.HasSubCommands() && c.ValidArgsFunction == nil {
			t.Errorf("%s completes files as its arguments", c.CommandPath())
		}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			name, _ := pflag.UnquoteUsage(f)
			if _, done := c.GetFlagCompletionFunc(f.Name); !done && f.Value.Type() != "bool" && name != "FILE" && f.Name != "netns" {
				t.Errorf("%s completes files as --%s %s", c.CommandPath(), f.Name, name)
			}
		})
		for _, below := range c.Commands() {
			walk(below)
		}
	}
	walk(newRootCmd())
	for words := range arguments {
		if c, rest, err := newRootCmd().Find(strings.Split(words, " ")); err != nil || len(rest) > 0 {
			t.Errorf("there is no command %q: %v, %v", words, c.CommandPath(), err)
		}
	}
}
