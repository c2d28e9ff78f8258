// Command duomesh-traffic is a traffic client or server and nothing else. A pod's
// processes are otherwise the program that has made the pod, which takes an emulated
// machine a second to start.
package main

import (
	"os"

	"github.com/duomesh/duomesh/internal/traffic"
)

func main() { os.Exit(traffic.Main()) }
