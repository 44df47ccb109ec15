// Command rig runs clusters on machines made of namespaces. tests/cluster/ calls it:
//
//	rig up [OPTIONS]          bring a cluster up and leave it running
//	rig down                  end it
//	rig exec NODE COMMAND...  run a command on one of its machines
//	rig run -- COMMAND...     run a command in an enclosure, where it can have a cluster of its own
//
// It calls itself as `enclose`, `inside`, `keep`, `boot` and `init`, for the processes between a shell and a container.
package main

import (
	"fmt"
	"os"
	"strings"

	"vipd/tests/kube/machine"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "rig: up, down, exec or run?")
		os.Exit(64)
	}
	status, err := dispatch(os.Args[1], os.Args[2:])
	if err != nil {
		fmt.Fprintf(os.Stderr, "rig %s: %v\n", os.Args[1], err)
		if status == 0 {
			status = 1
		}
	}
	os.Exit(status)
}

func dispatch(command string, arguments []string) (int, error) {
	switch command {
	case "up":
		return 0, up(arguments)
	case "down":
		return 0, down()
	case "exec":
		return execute(arguments)
	case "run":
		if len(arguments) > 0 && arguments[0] == "--" {
			arguments = arguments[1:]
		}
		return enclose(arguments, func(int) error { return nil })
	case "enclose":
		return enclose(arguments, remember)
	case "inside":
		return machine.Inside(arguments)
	case "keep":
		return 0, keep(arguments)
	case "boot":
		return 0, machine.Boot()
	case "init":
		return 0, machine.Init()
	}
	return 64, fmt.Errorf("there is no such command; there are: %s", strings.Join([]string{"up", "down", "exec", "run"}, ", "))
}
