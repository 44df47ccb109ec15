package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"vipd/tests/kube/machine"
)

const (
	// kubeadmWithin bounds one run of kubeadm; some 30 s are expected.
	kubeadmWithin = 8 * time.Minute
	// answersWithin bounds the wait for the virtual IP after `kubeadm init`: it has been there for some time then.
	answersWithin = time.Minute
	// readyWithin bounds the wait for nodes and rollouts.
	readyWithin = 5 * time.Minute
	// lastLines is how much of kubeadm's output a failure shows.
	lastLines = 25
	// sizes of this machine, and its cgroups, are not what is tested.
	ignored = "SystemVerification,NumCPU,Mem,Swap"
	// Kubeconfig is where kubeadm tells the user to copy admin.conf.
	Kubeconfig = "/root/.kube/config"
)

// joins are the two commands that `kubeadm init` prints.
type joins struct{ controlPlane, worker []string }

// initialize runs `kubeadm init` on the first node, vipd's files being in place.
func (c *Cluster) initialize(ctx context.Context) error {
	first := c.ControlPlane[0]
	if err := c.prepare(ctx, first); err != nil {
		return err
	}
	output, err := c.kubeadm(ctx, first, "init",
		"--control-plane-endpoint", fmt.Sprintf("%s:%d", Endpoint, c.Port), "--upload-certs",
		"--kubernetes-version", c.programs.Version,
		// Names and services within the cluster are not what is tested.
		"--skip-phases", "addon/coredns,addon/kube-proxy",
		"--ignore-preflight-errors", ignored)
	if err != nil {
		return err
	}
	if c.joins, err = parseJoins(output); err != nil {
		return err
	}
	admin, err := os.ReadFile(first.Path("/etc/kubernetes/admin.conf"))
	if err != nil {
		return err
	}
	for _, node := range c.Machines() {
		if err := node.Write(Kubeconfig, string(admin)); err != nil {
			return err
		}
	}
	// kubeadm itself is content with the node's own apiserver.
	answers, cancel := context.WithTimeout(ctx, answersWithin)
	defer cancel()
	err = Await(answers, "no answer through the virtual IP", func(ctx context.Context) error {
		_, err := c.kubectlOn(ctx, first, "--request-timeout", "5s", "get", "--raw", "/readyz")
		return err
	})
	if err != nil {
		return fmt.Errorf("%w (vipd's log: %s/pods)", err, first.Logs)
	}
	if c.Form == DaemonSet {
		return c.replaceByDaemonSet(ctx)
	}
	return nil
}

// parseJoins finds the commands for control-plane nodes and for workers in what `kubeadm init` prints.
func parseJoins(output string) (joins, error) {
	var found joins
	unfolded := strings.ReplaceAll(output, "\\\n", " ")
	for line := range strings.Lines(unfolded) {
		fields := strings.Fields(line)
		if len(fields) < 3 || fields[0] != "kubeadm" || fields[1] != "join" {
			continue
		}
		if slices.Contains(fields, "--control-plane") {
			found.controlPlane = fields[1:]
		} else {
			found.worker = fields[1:]
		}
	}
	if found.controlPlane == nil || found.worker == nil {
		return found, errors.New("`kubeadm init` has printed no commands to join")
	}
	return found, nil
}

// join makes a machine a node of the cluster.
func (c *Cluster) join(ctx context.Context, node *machine.Machine) error {
	arguments := c.joins.worker
	if node != c.Worker {
		arguments = c.joins.controlPlane
		if err := c.prepare(ctx, node); err != nil {
			return err
		}
	}
	_, err := c.kubeadm(ctx, node, append(slices.Clone(arguments), "--ignore-preflight-errors", ignored)...)
	return err
}

// kubeadm runs kubeadm on a machine; what it prints goes to the machine's kubeadm.log, too.
func (c *Cluster) kubeadm(ctx context.Context, node *machine.Machine, arguments ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, kubeadmWithin)
	defer cancel()
	command, err := node.Command(ctx, "kubeadm", arguments...)
	if err != nil {
		return "", err
	}
	output, err := command.CombinedOutput()
	logged := os.WriteFile(filepath.Join(node.Logs, "kubeadm.log"), output, 0o600)
	if err != nil {
		lines := strings.Split(strings.TrimSpace(string(output)), "\n")
		lines = lines[max(0, len(lines)-lastLines):]
		return "", fmt.Errorf("%s: kubeadm %s: %w\n%s\n(logs: %s)", node.Name, arguments[0], err, strings.Join(lines, "\n"), node.Logs)
	}
	return string(output), logged
}

// replaceByDaemonSet puts the DaemonSet in the place of the static pod that `kubeadm init` was done with.
func (c *Cluster) replaceByDaemonSet(ctx context.Context) error {
	first := c.ControlPlane[0]
	rights, err := c.vipdPrints(ctx, "manifest", "rbac")
	if err != nil {
		return err
	}
	set, err := c.vipdPrints(ctx, append([]string{"manifest", "daemonset", "--inCluster", "--taint"}, c.manifestFlags()...)...)
	if err != nil {
		return err
	}
	if err := first.Write("/root/vipd.yaml", rights+"---\n"+set); err != nil {
		return err
	}
	if _, err := c.kubectlOn(ctx, first, "apply", "-f", "/root/vipd.yaml"); err != nil {
		return err
	}
	if err := os.Remove(first.Path(ManifestFile)); err != nil {
		return err
	}
	// Both would listen on the same ports, so that the one is up only after the other is gone.
	_, err = c.kubectlOn(ctx, first, "--server", fmt.Sprintf("https://%s:%d", first.Address, apiserverPort),
		"--namespace", "kube-system", "rollout", "status", "daemonset/vipd", "--timeout="+readyWithin.String())
	return err
}

// kubectlOn runs kubectl on a machine.
func (c *Cluster) kubectlOn(ctx context.Context, node *machine.Machine, arguments ...string) (string, error) {
	return node.Run(ctx, "kubectl", arguments...)
}

// Kubectl runs kubectl on the worker, through the virtual IP.
func (c *Cluster) Kubectl(ctx context.Context, arguments ...string) (string, error) {
	return c.kubectlOn(ctx, c.Worker, arguments...)
}

// awaitNodes returns when all nodes are ready.
func (c *Cluster) awaitNodes(ctx context.Context) error {
	_, err := c.Kubectl(ctx, "wait", "--for=condition=Ready", "nodes", "--all", "--timeout="+readyWithin.String())
	return err
}
