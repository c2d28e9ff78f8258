package traffic

import (
	"fmt"
	"os"
	"path/filepath"
)

// childName is argv[0] of a traffic process.
const childName = "duomesh-traffic"

const (
	clientRole = "client"
	serverRole = "server"
)

// IsChild reports whether this process was started as a traffic client or
// server. Programs that start traffic with their own executable ask first of
// all, in main or TestMain:
//
//	if traffic.IsChild() {
//		os.Exit(traffic.Main())
//	}
func IsChild() bool { return filepath.Base(os.Args[0]) == childName }

// Main is the whole of a traffic process; it returns the exit code.
func Main() int {
	if err := child(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", childName, err)
		return 1
	}
	return 0
}

func child(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("want one argument, %s or %s, got %q", clientRole, serverRole, args)
	}
	switch args[0] {
	case clientRole:
		return client(os.Stdin, os.Stdout)
	case serverRole:
		return serve(os.Stdin, os.Stdout)
	}
	return fmt.Errorf("unknown role %q", args[0])
}
