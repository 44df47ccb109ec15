package life

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"vipd/tests/kube/cluster"
	"vipd/tests/kube/machine"
)

// manifests is the folder of static pods.
const manifests = "/etc/kubernetes/manifests/"

func TestTheOwnerLosesItsPower(t *testing.T) {
	awaitHealthy(t)
	w := startWatcher(t)
	lost := owner(t)
	if err := lost.PowerOff(); err != nil {
		t.Fatal(err)
	}
	w.row(t, "owner loses its power")
	if err := lost.PowerOn(); err != nil {
		t.Fatal(err)
	}
	awaitHealthy(t)
	w.row(t, "the node that lost its power is back")
}

func TestANodeIsDrainedAndRebooted(t *testing.T) {
	awaitHealthy(t)
	w := startWatcher(t)
	node := owner(t)
	kubectl(t, "drain", node.Name, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=2m")
	if err := node.Shutdown(); err != nil {
		t.Fatal(err)
	}
	w.row(t, "owner is drained and shut down")
	if err := node.PowerOn(); err != nil {
		t.Fatal(err)
	}
	awaitHealthy(t)
	kubectl(t, "uncordon", node.Name)
	w.row(t, "the rebooted node is back")
}

func TestApiserversAreRestartedOneAfterAnother(t *testing.T) {
	awaitHealthy(t)
	w := startWatcher(t)
	for _, node := range c.ControlPlane {
		replaceStaticPod(t, node, "kube-apiserver")
		awaitHealthy(t)
	}
	w.row(t, "apiservers restarted one after another")
}

func TestVipdIsReplacedPodByPod(t *testing.T) {
	awaitHealthy(t)
	w := startWatcher(t)
	if c.Form == cluster.DaemonSet {
		kubectl(t, "--namespace", "kube-system", "rollout", "restart", "daemonset/vipd")
		kubectl(t, "--namespace", "kube-system", "rollout", "status", "daemonset/vipd", "--timeout=5m")
	} else {
		for _, node := range c.ControlPlane {
			replaceStaticPod(t, node, "vipd")
		}
	}
	awaitHealthy(t)
	w.row(t, "vipd replaced pod by pod")
}

func TestEtcdLosesItsQuorumAndComesBack(t *testing.T) {
	awaitHealthy(t)
	w := startWatcher(t)
	before := owner(t)
	taken := map[*machine.Machine]string{}
	for _, node := range c.ControlPlane[1:] {
		text, err := os.ReadFile(node.Path(manifests + "etcd.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		taken[node] = string(text)
		if err := os.Remove(node.Path(manifests + "etcd.yaml")); err != nil {
			t.Fatal(err)
		}
	}
	err := cluster.Await(within(t, recoverWithin), "an API without quorum", func(ctx context.Context) error {
		if _, err := c.Kubectl(ctx, "--request-timeout", "2s", "get", "nodes"); err != nil {
			return nil
		}
		return fmt.Errorf("it still answers")
	})
	if err != nil {
		t.Fatal(err)
	}
	if *election == cluster.Peers {
		// The peers elect without etcd, and nobody else's balancer is better off.
		if now := owner(t); now != before {
			t.Errorf("the address moved from %s to %s, although no node was worse off than another", before.Name, now.Name)
		}
	}
	for node, text := range taken {
		if err := node.Write(manifests+"etcd.yaml", text); err != nil {
			t.Fatal(err)
		}
	}
	returned := time.Now()
	awaitHealthy(t)
	w.row(t, fmt.Sprintf("etcd without quorum; healthy %.0f s after", time.Since(returned).Seconds()))
}

func TestAllNodesStartTogether(t *testing.T) {
	awaitHealthy(t)
	for _, node := range c.Machines() {
		if err := node.PowerOff(); err != nil {
			t.Fatal(err)
		}
	}
	for _, node := range c.Machines() {
		if err := node.PowerOn(); err != nil {
			t.Fatal(err)
		}
	}
	// From now on nobody helps.
	w := launchWatcher(t)
	w.row(t, "all nodes start together, from power-on")
	awaitHealthy(t)
}

// round makes each replaced static pod another one.
var round int

// replaceStaticPod changes a static pod's manifest, as an upgrade does, and returns when the new pod is ready.
func replaceStaticPod(t *testing.T, node *machine.Machine, name string) {
	t.Helper()
	round++
	file := manifests + name + ".yaml"
	text, err := os.ReadFile(node.Path(file))
	if err != nil {
		t.Fatal(err)
	}
	if err := node.Write(file, annotate(string(text), round)); err != nil {
		t.Fatal(err)
	}
	wanted := fmt.Sprintf("%d True", round)
	pod := fmt.Sprintf("%s-%s", name, node.Name)
	err = cluster.Await(within(t, recoverWithin), "a new "+pod, func(ctx context.Context) error {
		state, err := c.Kubectl(ctx, "--request-timeout", "5s", "--namespace", "kube-system", "get", "pod", pod, "--output",
			`jsonpath={.metadata.annotations.vipd\.test/round} {.status.conditions[?(@.type=="Ready")].status}`)
		if err == nil && state != wanted {
			err = fmt.Errorf("round and readiness are %q, not yet %q", state, wanted)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// annotate sets the annotation by which rounds are told apart.
func annotate(manifest string, round int) string {
	const key = "    vipd.test/round: "
	var lines []string
	for line := range strings.Lines(manifest) {
		if !strings.HasPrefix(line, key) {
			lines = append(lines, line)
		}
	}
	text := strings.Join(lines, "")
	annotation := fmt.Sprintf("%s%q\n", key, fmt.Sprint(round))
	if strings.Contains(text, "\n  annotations:\n") {
		return strings.Replace(text, "\n  annotations:\n", "\n  annotations:\n"+annotation, 1)
	}
	return strings.Replace(text, "\nmetadata:\n", "\nmetadata:\n  annotations:\n"+annotation, 1)
}
