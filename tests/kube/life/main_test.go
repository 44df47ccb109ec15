// Package life watches a cluster live: it brings one up as a user does, and looks on from the worker while nodes lose their power,
// are drained, upgraded, and started together after a black-out.
//
// It runs in an enclosure (tests/cluster/run), and ends with it. What is asserted is that everything comes back by itself and that
// nothing confirmed is lost; how long things took is printed.
package life

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"vipd/tests/kube/cluster"
	"vipd/tests/kube/machine"
)

// recoverWithin bounds every recovery. Seconds are expected, and a minute or two where a kubelet backs off.
const recoverWithin = 8 * time.Minute

var (
	election = flag.String("election", cluster.Peers, "peers or lease")
	form     = flag.String("form", "", "how vipd runs: sample, pod or daemonset")
	port     = flag.Int("endpoint", 8443, "the port of the virtual IP")
	// A lease of vipd's default is 150 ms: on a machine that is busy with something else, the address moves although
	// nothing is broken, which some tests take for a failure.
	timing = flag.String("timing", "", "the profile of the peers' election")
	born   = flag.String("born", "", "what has the virtual IP until a test gives it to vipd: keepalived, or vipd itself")
)

// c is the cluster of all tests.
var c *cluster.Cluster

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer stop()
	programs, err := cluster.ProgramsFromEnvironment()
	if err == nil {
		say := func(format string, values ...any) { fmt.Printf(format+"\n", values...) }
		c, err = cluster.New(cluster.Options{Election: *election, Form: *form, Port: *port, Timing: *timing, Born: *born}, programs, say)
	}
	if err == nil {
		err = c.Up(ctx)
	}
	if err == nil {
		err = deploy(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	// Whoever interrupts the run wants its end; the cluster ends with it.
	uninterrupted := context.AfterFunc(ctx, func() { os.Exit(130) })
	status := m.Run()
	// Else the end of this function would be taken for an interruption.
	uninterrupted()
	if len(rows) > 0 {
		fmt.Printf("\n%s\n%s\n", header, strings.Join(rows, "\n"))
	}
	return status
}

// deploy makes what the tests look at: a deployment with a pod on each node, and a pod on the worker whose log is followed.
func deploy(ctx context.Context) error {
	if err := c.Worker.Write("/root/web.yaml", workload); err != nil {
		return err
	}
	if _, err := c.Kubectl(ctx, "apply", "-f", "/root/web.yaml"); err != nil {
		return err
	}
	_, err := c.Kubectl(ctx, "wait", "--for=condition=Ready", "pod/logged", "--timeout=3m")
	return err
}

const workload = `apiVersion: v1
kind: Namespace
metadata: {name: watched}
---
apiVersion: v1
kind: Pod
metadata: {name: logged}
spec:
  nodeName: worker-1
  terminationGracePeriodSeconds: 1
  containers: [{name: web, image: "` + cluster.WebImage + `"}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 4
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations: [{key: node-role.kubernetes.io/control-plane, operator: Exists, effect: NoSchedule}]
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: web}}, matchLabelKeys: [pod-template-hash]}
      containers:
      - name: web
        image: "` + cluster.WebImage + `"
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
`

// within is a context for one recovery.
func within(t *testing.T, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

// kubectl runs kubectl on the worker; a failure fails the test.
func kubectl(t *testing.T, arguments ...string) string {
	t.Helper()
	output, err := c.Kubectl(within(t, recoverWithin), arguments...)
	if err != nil {
		t.Fatal(err)
	}
	return output
}

// holders are the nodes that have the virtual IP now.
func holders(ctx context.Context) []*machine.Machine {
	var found []*machine.Machine
	for _, node := range c.ControlPlane {
		addresses, err := node.Run(ctx, "ip", "-oneline", "address", "show", "dev", machine.Interface)
		if err == nil && strings.Contains(addresses, " "+cluster.VIP+"/") {
			found = append(found, node)
		}
	}
	return found
}

// owner returns the node that has the virtual IP, as soon as there is exactly one.
func owner(t *testing.T) *machine.Machine {
	t.Helper()
	var found *machine.Machine
	err := cluster.Await(within(t, recoverWithin), "one owner of the virtual IP", func(ctx context.Context) error {
		all := holders(ctx)
		if len(all) != 1 {
			return fmt.Errorf("%d nodes have it", len(all))
		}
		found = all[0]
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// awaitHealthy returns when every apiserver is ready, every vipd answers, and every node is ready.
func awaitHealthy(t *testing.T) {
	t.Helper()
	err := cluster.Await(within(t, recoverWithin), "a healthy cluster", func(ctx context.Context) error {
		for _, node := range c.ControlPlane {
			server := fmt.Sprintf("https://%s:6443", node.Address)
			if _, err := node.Run(ctx, "kubectl", "--request-timeout", "5s", "--server", server, "get", "--raw", "/readyz"); err != nil {
				return err
			}
			if _, err := node.Run(ctx, "vipd", "status"); err != nil {
				return err
			}
		}
		ready, err := c.Kubectl(ctx, "--request-timeout", "5s", "get", "nodes", "--output",
			`jsonpath={range .items[*]}{.status.conditions[?(@.type=="Ready")].status} {end}`)
		if err == nil && strings.TrimSpace(ready) != "True True True True" {
			err = fmt.Errorf("nodes ready: %s", ready)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	owner(t)
}
