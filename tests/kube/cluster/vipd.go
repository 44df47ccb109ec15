package cluster

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strings"

	"vipd/tests/kube/machine"
)

// The elections, and the forms in which vipd runs.
const (
	// Peers is the election among static peers; Lease that by Kubernetes Lease.
	Peers, Lease = "peers", "lease"
	// Sample is the static pod of `vipd sample manifest`, with a file; Pod that of `vipd manifest pod`; DaemonSet follows
	// `vipd manifest daemonset`, after a start with Pod.
	Sample, Pod, DaemonSet = "sample", "pod", "daemonset"
)

// Files of vipd on a control-plane node.
const (
	ManifestFile = "/etc/kubernetes/manifests/vipd.yaml"
	ConfigFile   = "/etc/vipd/config.yaml"
)

// Options are what a user chooses.
type Options struct {
	// Election is Peers or Lease.
	Election string
	// Form is Sample, Pod or DaemonSet.
	Form string
	// Port is where clients connect: 8443, or 6443, the apiservers' own.
	Port int
	// Timing is the profile of the peers' election; vipd's default where it is empty.
	Timing string
	// Born is what has the virtual IP while the cluster comes up: vipd where it is empty, or Keepalived.
	Born string
}

// Check fills what is not chosen and refuses what doesn't go together.
func (o *Options) Check() error {
	forms := map[string][]string{Peers: {Sample}, Lease: {Pod, DaemonSet}}[o.Election]
	if forms == nil {
		return fmt.Errorf("--election is peers or lease, not %q", o.Election)
	}
	if o.Form == "" {
		o.Form = forms[0]
	}
	if o.Form != forms[0] && o.Form != forms[len(forms)-1] {
		return fmt.Errorf("--form with --election %s is %s, not %q", o.Election, strings.Join(forms, " or "), o.Form)
	}
	if o.Timing != "" && o.Election != Peers {
		return fmt.Errorf("--timing goes with --election %s", Peers)
	}
	if o.Born != "" && (o.Born != Keepalived || o.Election != Peers || o.Port != 8443) {
		return fmt.Errorf("--born is %s, with --election %s and --endpoint 8443, not %q", Keepalived, Peers, o.Born)
	}
	if o.Port != 8443 && o.Port != apiserverPort {
		return fmt.Errorf("--endpoint is 8443 or %d, not %d", apiserverPort, o.Port)
	}
	return nil
}

// manifestFlags are those of `vipd manifest pod` and `daemonset`, as a user of kube-vip writes them.
func (o Options) manifestFlags() []string {
	return []string{
		"--interface", machine.Interface, "--address", VIP, "--controlplane", "--arp", "--leaderElection",
		"--leaseDuration", "5", "--leaseRenewDuration", "3", "--leaseRetry", "1",
		"--enableLoadBalancer", "--lbPort", fmt.Sprint(o.Port),
	}
}

// vipdPrints is what a command of vipd prints, as `docker run --rm IMAGE COMMAND...` would.
func (c *Cluster) vipdPrints(ctx context.Context, command ...string) (string, error) {
	output, err := exec.CommandContext(ctx, c.programs.Vipd, command...).Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		return "", fmt.Errorf("vipd %s: %w", strings.Join(command, " "), err)
	}
	return string(output), nil
}

// Manifest is what goes to ManifestFile.
func (c *Cluster) Manifest(ctx context.Context) (string, error) {
	if c.Form == Sample {
		return c.vipdPrints(ctx, "sample", "manifest")
	}
	return c.vipdPrints(ctx, append([]string{"manifest", "pod"}, c.manifestFlags()...)...)
}

// vipdImage is the image that the manifest names, made from the vipd that is tested as the Dockerfile makes it.
func (c *Cluster) vipdImage(ctx context.Context) (image, error) {
	manifest, err := c.Manifest(ctx)
	if err != nil {
		return image{}, err
	}
	found := regexp.MustCompile(`(?m)^\s+image: (\S+)$`).FindStringSubmatch(manifest)
	if found == nil {
		return image{}, fmt.Errorf("vipd's manifest names no image:\n%s", manifest)
	}
	reference := found[1]
	// What containerd calls an image whose name has no registry.
	if !strings.Contains(reference, "/") {
		reference = "docker.io/library/" + reference
	}
	return image{reference: reference, program: c.programs.Vipd, path: "vipd", link: "kube-vip", entrypoint: []string{"/vipd"}}, nil
}

// configuration is the file of one node, in the form that users know.
func (c *Cluster) configuration(local *machine.Machine) string {
	text := &strings.Builder{}
	fmt.Fprintf(text, "localPeer:\n  id: %s\n  address: %s\n  port: 10000\nremotePeers:\n", local.Name, local.Address)
	for _, other := range c.ControlPlane {
		if other != local {
			fmt.Fprintf(text, "- id: %s\n  address: %s\n  port: 10000\n", other.Name, other.Address)
		}
	}
	fmt.Fprintf(text, "vip: %s\ngratuitousARP: true\nsingleNode: false\nstartAsLeader: %t\ninterface: %s\n",
		VIP, local == c.ControlPlane[0], machine.Interface)
	if c.Timing != "" {
		fmt.Fprintf(text, "timing: %s\n", c.Timing)
	}
	place := "bindToVip: false"
	if c.Port == apiserverPort {
		place = "samePort: true"
	}
	fmt.Fprintf(text, "loadBalancers:\n- name: API Server Load Balancer\n  type: tcp\n  port: %d\n  %s\n  backends:\n", c.Port, place)
	for _, backend := range c.ControlPlane {
		fmt.Fprintf(text, "  - port: %d\n    address: %s\n", apiserverPort, backend.Address)
	}
	return text.String()
}

// prepare puts vipd's files where a user puts them, before kubeadm runs on the node.
func (c *Cluster) prepare(ctx context.Context, node *machine.Machine) error {
	if c.Born == Keepalived {
		return c.prepareForebears(node)
	}
	if c.Form == DaemonSet && node != c.ControlPlane[0] {
		return nil
	}
	if c.Form == Sample {
		if err := node.Write(ConfigFile, c.configuration(node)); err != nil {
			return err
		}
	}
	manifest, err := c.Manifest(ctx)
	if err != nil {
		return err
	}
	return node.Write(ManifestFile, manifest)
}
