package machine

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	bridge = "switch"
	// Gateway and Gateway6 are the switch's own addresses: the default routes of the machines, behind which nothing is.
	Gateway, Gateway6 = "10.0.0.1", "fd00::1"
)

// MakeSwitch makes the switch in the enclosure's network.
func MakeSwitch() error {
	for _, line := range []string{
		"link set lo up",
		"link add " + bridge + " type bridge",
		"address add " + Gateway + "/24 dev " + bridge,
		"address add " + Gateway6 + "/64 dev " + bridge + " nodad",
		"link set " + bridge + " up",
	} {
		if err := run("ip", strings.Fields(line)...); err != nil {
			return err
		}
	}
	return nil
}

// plugIn makes a cable from the switch to the network of a process.
func plugIn(port string, pid int) error {
	if err := run("ip", "link", "add", port, "type", "veth", "peer", "name", Interface, "netns", strconv.Itoa(pid)); err != nil {
		return err
	}
	return run("ip", "link", "set", port, "master", bridge, "up")
}

// unplug removes a cable, if the kernel has not done so yet.
func unplug(port string) error {
	removed := run("ip", "link", "delete", port)
	if _, err := os.Stat(filepath.Join("/sys/class/net", port)); os.IsNotExist(err) {
		return nil
	}
	return removed
}

// connect gives a machine, from its inside, its addresses and routes.
func connect(plan Plan) error {
	for path, value := range map[string]string{
		"/proc/sys/net/ipv4/ip_forward":             "1",
		"/proc/sys/net/ipv6/conf/all/forwarding":    "1",
		"/proc/sys/net/ipv6/conf/default/accept_ra": "0",
		// Addresses are usable at once; duplicate address detection would take a second.
		"/proc/sys/net/ipv6/conf/" + Interface + "/accept_dad": "0",
	} {
		if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
			return err
		}
	}
	lines := []string{
		"link set lo up",
		"address add " + plan.Address + "/24 dev " + Interface,
		"address add " + plan.Address6 + "/64 dev " + Interface + " nodad",
		"link set " + Interface + " up",
		"route add default via " + Gateway,
		"-6 route add default via " + Gateway6,
	}
	for network, gateway := range plan.Routes {
		lines = append(lines, "route add "+network+" via "+gateway)
	}
	for _, line := range lines {
		if err := run("ip", strings.Fields(line)...); err != nil {
			return err
		}
	}
	return nil
}

// run runs a program to its end; an error has what it said.
func run(program string, arguments ...string) error {
	output, err := exec.Command(program, arguments...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", program, strings.Join(arguments, " "), err, strings.TrimSpace(string(output)))
	}
	return nil
}
