package main

import (
	"cmp"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/duomesh/duomesh/internal/probe"
	"github.com/duomesh/duomesh/internal/scenario"
	"github.com/duomesh/duomesh/netsim"
)

// completer has what a shell may complete a word to. Who cannot tell says nothing: nobody
// reads an error there.
type completer func(cmd *cobra.Command, args []string) []string

// arguments are the names that commands take, by the words of the command; of others no
// argument is completed.
var arguments = map[string]completer{
	"verify":          scenarioNames,
	"netsim exec":     firstOf(simulatedPods),
	"netsim apply":    firstOf(simulatedClusters),
	"netsim down":     firstOf(simulatedClusters),
	"netsim ls":       firstOf(simulatedClusters),
	"netsim start":    simulatedParts,
	"enroll":          enrollable,
	"unenroll":        enrollable,
	"waypoint status": firstOf(waypointNames),
	"waypoint config": firstOf(waypointNames),
	"waypoint delete": firstOf(clusterWaypoints),
}

// directories are the commands whose arguments are directories.
var directories = []string{"bench compare", "bench report", "bench resume"}

// values are the names that flags take, by the flag's name, whatever the command.
var values = map[string]completer{
	"cluster":          simulatedClusters,
	"node":             nodeNames,
	"pod":              podsToName,
	"from":             podsToName,
	"waypoint":         clusterWaypoints,
	"context":          contexts,
	"namespace":        namespaces,
	"system-namespace": namespaces,
	"service":          services,
	"by":               providers,
	"second":           providers,
}

// completeNames lets shells complete the names of what there is, and files only where a
// file is meant.
func completeNames(cmd *cobra.Command) {
	_, words, _ := strings.Cut(cmd.CommandPath(), " ")
	switch of, known := arguments[words]; {
	case slices.Contains(directories, words):
		cmd.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		}
	case words == "netsim exec": // behind -- stands a command line, with files
		cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveDefault
			}
			return of.begunBy(cmd, args, begun)
		}
	case known:
		cmd.ValidArgsFunction = of.begunBy
	case !cmd.HasSubCommands():
		cmd.ValidArgsFunction = cobra.NoFileCompletions
	}
	register := func(f *pflag.Flag) {
		if _, done := cmd.GetFlagCompletionFunc(f.Name); done {
			return
		}
		if complete := ofFlag(f, cmd); complete != nil {
			cobra.CheckErr(cmd.RegisterFlagCompletionFunc(f.Name, complete)) // the flag is there, and has none
		}
	}
	cmd.LocalNonPersistentFlags().VisitAll(register)
	cmd.PersistentFlags().VisitAll(register)
	for _, below := range cmd.Commands() {
		completeNames(below)
	}
}

// ofFlag is how a flag's value is completed; nil where it is a file.
func ofFlag(f *pflag.Flag, cmd *cobra.Command) cobra.CompletionFunc {
	name, usage := pflag.UnquoteUsage(f)
	of, known := values[f.Name]
	switch {
	case name == "FILE" || f.Name == "netns":
		return nil
	case name == "DIR" || f.Name == "cgroup":
		return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		}
	case f.Name == "output":
		return cobra.FixedCompletions(forms(usage), cobra.ShellCompDirectiveNoFileComp)
	case f.Name == "node" && cmd.Name() == "uninstall":
		return completer(clusterNodes).begunBy
	case known:
		return of.begunBy
	case strings.Contains(name, "|"):
		return cobra.FixedCompletions(strings.Split(name, "|"), cobra.ShellCompDirectiveNoFileComp)
	}
	return cobra.NoFileCompletions
}

// forms are those that the usage of --output names: "table, json or yaml".
func forms(usage string) []string {
	var all []string
	for _, word := range strings.FieldsFunc(usage, func(r rune) bool { return strings.ContainsRune(" ,;()", r) }) {
		if slices.Contains([]string{"table", "text", "json", "yaml"}, word) {
			all = append(all, word)
		}
	}
	return all
}

// begunBy are the names that begin with what was typed, and were not given yet.
func (n completer) begunBy(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	var all []string
	for _, name := range n(cmd, args) {
		if strings.HasPrefix(name, begun) && !slices.Contains(args, name) {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return slices.Compact(all), cobra.ShellCompDirectiveNoFileComp
}

// firstOf are the names of the first argument alone.
func firstOf(n completer) completer {
	return func(cmd *cobra.Command, args []string) []string {
		if len(args) > 0 {
			return nil
		}
		return n(cmd, args)
	}
}

func scenarioNames(*cobra.Command, []string) []string {
	var all []string
	for _, s := range scenario.All() {
		all = append(all, s.Name)
	}
	return all
}

func providers(*cobra.Command, []string) []string { return probe.ProviderNames() }

// flagOf is the value of a flag, "" where the command has none of the name.
func flagOf(cmd *cobra.Command, name string) string {
	if f := cmd.Flag(name); f != nil {
		return f.Value.String()
	}
	return ""
}

// simulated are the clusters that run, or the one that --cluster names.
func simulated(cmd *cobra.Command) []netsim.State {
	all, err := netsim.Clusters(flagOf(cmd, "run-dir"))
	if err != nil {
		return nil
	}
	if only := flagOf(cmd, "cluster"); only != "" {
		all = slices.DeleteFunc(all, func(s netsim.State) bool { return s.ID != only })
	}
	return all
}

func simulatedClusters(cmd *cobra.Command, _ []string) []string {
	all, err := netsim.Clusters(flagOf(cmd, "run-dir"))
	if err != nil {
		return nil
	}
	var ids []string
	for _, s := range all {
		ids = append(ids, s.ID)
	}
	return ids
}

// partsOf are names of the nodes and pods of the clusters that run.
func partsOf(all []netsim.State, nodes bool, pods func(netsim.PodState) bool) []string {
	var found []string
	for _, s := range all {
		for _, n := range s.Nodes {
			if nodes {
				found = append(found, n.Name)
			}
			for _, p := range n.Pods {
				if pods(p) {
					found = append(found, p.Name)
				}
			}
		}
	}
	return found
}

func anyPod(netsim.PodState) bool        { return true }
func noPod(netsim.PodState) bool         { return false }
func waypointPod(p netsim.PodState) bool { return p.Waypoint != "" }
func simulatedParts(cmd *cobra.Command, _ []string) []string {
	return append(partsOf(simulated(cmd), true, waypointPod), "etcd", "istiod", "kube-apiserver")
}

func simulatedPods(cmd *cobra.Command, _ []string) []string {
	return partsOf(simulated(cmd), false, anyPod)
}

// contexts are those of the kubeconfig that is named, or that kubectl would take.
func contexts(cmd *cobra.Command, _ []string) []string {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = cmp.Or(flagOf(cmd, "kubeconfig"), os.Getenv("KUBECONFIG"))
	config, err := rules.Load()
	if err != nil {
		return nil
	}
	var all []string
	for name := range config.Contexts {
		all = append(all, name)
	}
	return all
}
