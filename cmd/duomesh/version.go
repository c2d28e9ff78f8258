package main

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"
)

// version is what this program was built from.
type version struct {
	Revision string `json:"revision"`
	Time     string `json:"time,omitempty"`
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func thisVersion() version {
	v := version{Revision: "unknown", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Revision = s.Value
		case "vcs.time":
			v.Time = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	return v
}

func newVersionCmd() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "version", Short: "Print what this program was built from", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return printVersion(cmd.OutOrStdout(), output) },
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table, json or yaml")
	return cmd
}

func printVersion(out io.Writer, output string) error {
	v := thisVersion()
	var text []byte
	var err error
	switch output {
	case "table":
		words := []string{"revision " + v.Revision}
		if v.Modified {
			words = append(words, "with changes")
		}
		if v.Time != "" {
			words = append(words, "of "+v.Time)
		}
		_, err = fmt.Fprintf(out, "duomesh, %s, %s, %s\n", strings.Join(words, " "), v.Go, v.Platform)
		return err
	case "json":
		text, err = json.MarshalIndent(v, "", "  ")
		text = append(text, '\n')
	case "yaml":
		text, err = yaml.Marshal(v)
	default:
		return usagef("--output %s: must be table, json or yaml", output)
	}
	if err != nil {
		return err
	}
	_, err = out.Write(text)
	return err
}
