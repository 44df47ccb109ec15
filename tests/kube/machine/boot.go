package machine

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Boot is the first half of a machine's PID 1, in namespaces that PowerOn made: it makes the machine's network, cgroups and root,
// and then becomes Init. The plan comes on standard input once the cable is plugged in.
func Boot() error {
	if os.Getpid() != 1 {
		return fmt.Errorf("`boot` is for PID 1 of a machine")
	}
	// A pipe whose end tells the outside that the machine is there: it ends with the exec below.
	unix.CloseOnExec(3)
	var plan Plan
	if err := json.NewDecoder(os.Stdin).Decode(&plan); err != nil {
		return fmt.Errorf("failed to read the plan: %w", err)
	}
	if err := connect(plan); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(plan.Name)); err != nil {
		return err
	}
	cgroups, err := enterCgroup(filepath.Join(plan.Cgroup, plan.Name))
	if err != nil {
		return err
	}
	if err := enterRoot(plan, cgroups); err != nil {
		return err
	}
	if err := hide("systemctl", "rc-service"); err != nil {
		return err
	}
	environment := []string{"PATH=" + Path, "HOME=/root"}
	// Standard input was the plan's pipe; the new /proc names this very program.
	null, err := os.Open("/dev/null")
	if err != nil {
		return err
	}
	if err := unix.Dup2(int(null.Fd()), 0); err != nil {
		return err
	}
	return syscall.Exec("/proc/self/exe", []string{"rig", "init"}, environment)
}
