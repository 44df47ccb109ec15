// Package cluster brings up a Kubernetes cluster of real parts on machines made of namespaces, the way a user does it: vipd's
// manifest first, `kubeadm init` with the virtual IP's name as the endpoint, then the joins, through the virtual IP.
package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"vipd/tests/kube/machine"
)

const (
	// VIP is the virtual IP, and Endpoint its name in each machine's /etc/hosts.
	VIP, Endpoint = "10.0.0.162", "vip.mycluster.local"
	apiserverPort = 6443
	// programFolder has all programs for the machines, whatever folders they come from.
	programFolder = "/run/programs"
	// WebImage is the image that the tests deploy.
	WebImage = "registry.test/web:1"
	// secondWebImage is the same under a second name, for a rollout.
	secondWebImage = "registry.test/web:2"
)

// Programs are the files that the cluster is made from.
type Programs struct {
	// Kubernetes is the folder that tests/kube/build prints, Version the version in it.
	Kubernetes, Version string
	// Vipd is what is tested; Rig is PID 1 of the machines; Pause, Web and Watcher are the tests' own.
	Vipd, Rig, Pause, Web, Watcher string
	// Logs is the folder for what the machines say; Cgroup is where their cgroups go.
	Logs, Cgroup string
}

// ProgramsFromEnvironment takes them from where tests/cluster/setup puts them.
func ProgramsFromEnvironment() (Programs, error) {
	var programs Programs
	for name, place := range map[string]*string{
		"VIPD_KUBE_BIN":       &programs.Kubernetes,
		"VIPD_KUBE_VERSION":   &programs.Version,
		"VIPD_BIN":            &programs.Vipd,
		"VIPD_RIG":            &programs.Rig,
		"VIPD_PAUSE":          &programs.Pause,
		"VIPD_WEB":            &programs.Web,
		"VIPD_WATCHER":        &programs.Watcher,
		"VIPD_CLUSTER_LOGS":   &programs.Logs,
		"VIPD_CLUSTER_CGROUP": &programs.Cgroup,
	} {
		if *place = os.Getenv(name); *place == "" {
			return programs, fmt.Errorf("%s is not set: tests/cluster/ sets it", name)
		}
	}
	return programs, nil
}

// Cluster is three control-plane nodes and a worker.
type Cluster struct {
	Options
	programs Programs
	say      func(format string, values ...any)
	// ControlPlane are the nodes with an apiserver, Worker the one without.
	ControlPlane []*machine.Machine
	Worker       *machine.Machine
	joins        joins
}

// Machines are all of them.
func (c *Cluster) Machines() []*machine.Machine {
	return append(slices.Clone(c.ControlPlane), c.Worker)
}

// New makes the machines, all off, with what a user has on a new host: names, a container runtime's and the kubelet's settings.
func New(options Options, programs Programs, say func(format string, values ...any)) (*Cluster, error) {
	if err := options.Check(); err != nil {
		return nil, err
	}
	c := &Cluster{Options: options, programs: programs, say: say}
	if err := gather(programs); err != nil {
		return nil, err
	}
	names := []string{"master-1", "master-2", "master-3", "worker-1"}
	for number, name := range names {
		plan := machine.Plan{
			Name:     name,
			Address:  fmt.Sprintf("10.0.0.%d", 163+number),
			Address6: fmt.Sprintf("fd00::%d", 163+number),
			Routes:   map[string]string{},
			Programs: programFolder,
			Logs:     filepath.Join(programs.Logs, name),
			Cgroup:   programs.Cgroup,
		}
		for other := range names {
			if other != number {
				plan.Routes[podNetwork(other)] = fmt.Sprintf("10.0.0.%d", 163+other)
			}
		}
		node, err := machine.New(plan, programs.Rig)
		if err != nil {
			return nil, err
		}
		if name == "worker-1" {
			c.Worker = node
		} else {
			c.ControlPlane = append(c.ControlPlane, node)
		}
	}
	for number, node := range c.Machines() {
		if err := c.furnish(node, number); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// gather puts all programs into one folder, by mounts: they come from several, and some are links.
func gather(programs Programs) error {
	files := map[string]string{"vipd": programs.Vipd, "watcher": programs.Watcher}
	for _, name := range []string{"kubelet", "kubeadm", "kubectl", "etcd"} {
		files[name] = filepath.Join(programs.Kubernetes, name)
	}
	if err := os.MkdirAll(programFolder, 0o755); err != nil {
		return err
	}
	for name, file := range files {
		place := filepath.Join(programFolder, name)
		if err := os.WriteFile(place, nil, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(file, place, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("failed to mount %s: %w", file, err)
		}
	}
	return nil
}

// podNetwork is the network of the pods on a machine.
func podNetwork(number int) string { return fmt.Sprintf("10.244.%d.0/24", number+1) }

// furnish writes what a new host has before kubeadm comes.
func (c *Cluster) furnish(node *machine.Machine, number int) error {
	hosts := &strings.Builder{}
	fmt.Fprintf(hosts, "127.0.0.1 localhost\n::1 localhost\n%s %s\n", VIP, Endpoint)
	for _, other := range c.Machines() {
		fmt.Fprintf(hosts, "%s %s\n", other.Address, other.Name)
	}
	for file, content := range map[string]string{
		"/etc/hosts":                  hosts.String(),
		"/etc/hostname":               node.Name + "\n",
		"/etc/machine-id":             fmt.Sprintf("%032x\n", 0xc0ffee00+number),
		"/etc/resolv.conf":            "",
		"/etc/containerd/config.toml": containerdConfig,
		"/etc/kubernetes/kubelet.conf.d/10-machine.conf": kubeletConfig,
		"/etc/cni/net.d/10-bridge.conflist":              fmt.Sprintf(networkConfig, podNetwork(number)),
	} {
		if err := node.Write(file, content); err != nil {
			return err
		}
	}
	return os.MkdirAll(node.Path("/etc/kubernetes/manifests"), 0o755)
}

// Up brings the cluster up from nothing.
func (c *Cluster) Up(ctx context.Context) error {
	all := []struct {
		what string
		do   func(context.Context) error
	}{
		{"images made", c.makeImages},
		{"four machines switched on, images imported", c.switchOn},
		{"master-1: kubeadm init through " + Endpoint, c.initialize},
		{"master-2: kubeadm join", func(ctx context.Context) error { return c.join(ctx, c.ControlPlane[1]) }},
		{"master-3: kubeadm join", func(ctx context.Context) error { return c.join(ctx, c.ControlPlane[2]) }},
		{"worker-1: kubeadm join", func(ctx context.Context) error { return c.join(ctx, c.Worker) }},
		{"four nodes are ready", c.awaitNodes},
	}
	started := time.Now()
	for _, step := range all {
		began := time.Now()
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: not done: %w", step.what, err)
		}
		c.say("%-55s %6.1f s", step.what, time.Since(began).Seconds())
	}
	c.say("%-55s %6.1f s", "the cluster is up", time.Since(started).Seconds())
	return nil
}

// makeImages makes the images of all machines.
func (c *Cluster) makeImages(ctx context.Context) error {
	if err := os.MkdirAll(images, 0o755); err != nil {
		return err
	}
	all, _, err := c.images(ctx)
	if err != nil {
		return err
	}
	for _, image := range all {
		if err := image.make(); err != nil {
			return fmt.Errorf("%s: %w", image.reference, err)
		}
	}
	return nil
}

// images are those of a control-plane node, and those of a worker.
func (c *Cluster) images(ctx context.Context) (master, worker []image, err error) {
	master, err = kubernetesImages(ctx, c.programs)
	if err != nil {
		return nil, nil, err
	}
	vipd, err := c.vipdImage(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, reference := range []string{WebImage, secondWebImage} {
		master = append(master, image{reference: reference, program: c.programs.Web, path: "web", entrypoint: []string{"/web"}})
	}
	if c.Born == Keepalived {
		before, err := forebears()
		if err != nil {
			return nil, nil, err
		}
		master = append(master, before...)
	}
	for _, image := range master {
		if strings.Contains(image.path, "pause") || strings.Contains(image.path, "web") {
			worker = append(worker, image)
		}
	}
	return append(master, vipd), worker, nil
}

// switchOn starts the machines and gives them their images.
func (c *Cluster) switchOn(ctx context.Context) error {
	master, worker, err := c.images(ctx)
	if err != nil {
		return err
	}
	for _, node := range c.Machines() {
		if err := node.PowerOn(); err != nil {
			return err
		}
	}
	for _, node := range c.Machines() {
		if err := awaitFile(ctx, node, "/run/containerd/containerd.sock"); err != nil {
			return err
		}
		wanted := master
		if node == c.Worker {
			wanted = worker
		}
		if err := load(ctx, node, wanted); err != nil {
			return err
		}
	}
	// They would take memory for as long as the cluster lives.
	return os.RemoveAll(images)
}

// awaitFile returns when a running machine has a file.
func awaitFile(ctx context.Context, node *machine.Machine, file string) error {
	return Await(ctx, node.Name+": "+file, func(ctx context.Context) error {
		_, err := node.Run(ctx, "test", "-e", file)
		return err
	})
}

// lookEvery is the pause between two looks at a state that nobody announces.
const lookEvery = 200 * time.Millisecond

// Await returns when the condition holds, or with its last error when the context ends.
func Await(ctx context.Context, what string, condition func(context.Context) error) error {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	var last error
	for {
		err := condition(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return fmt.Errorf("%s: %w; last: %w", what, ctx.Err(), last)
		}
	}
}
