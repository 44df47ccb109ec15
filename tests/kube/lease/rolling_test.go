package lease

import (
	"context"
	"os"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"vipd/tests/kube/lab"
)

// An operator replaces kube-vip by vipd, node by node, and goes back: one election all the time.
func TestARollingReplacementHasOneHolderThroughout(t *testing.T) {
	c := open(t)
	for _, node := range lab.Nodes {
		c.install(t, node, quick.ofClientGo())
	}
	c.awaitHolder(t, "")
	for _, system := range []string{quick.ofVipd(), quick.ofClientGo()} {
		for _, node := range lab.Nodes {
			holder := c.awaitHolder(t, "")
			before := c.now(t)
			c.Stop(t, node, process(c.system(node)))
			c.awaitHolder(t, node) // an image pull would take longer than the others need
			c.install(t, node, system)
			next := c.awaitHolder(t, "")
			pause(quick.lasts) // long enough for a second move to show
			after := c.now(t)
			c.assertRunning(t)
			c.judge(t)
			longest := longestGap(c.stays(t), before, after)
			t.Logf("%s now runs %s; holder %s → %s; nobody held the address for %v at most", node, system, holder, next, longest.Round(time.Millisecond))
			if holder != node && longest > grain {
				t.Errorf("the holder %s was not touched, and for %v nobody held the address", holder, longest)
			}
		}
	}
}

// The power comes back: everything starts at once, and the only address in the kubeconfigs is the one that nobody has yet.
func TestAColdStartWithKubeconfigsThatLeadToTheVirtualIPComesUp(t *testing.T) {
	c := open(t)
	for _, node := range lab.Nodes {
		c.install(t, node, quick.ofVipd())
	}
	c.awaitHolder(t, "")
	processes := []string{process(quick.ofVipd()), apiserver, etcd}
	for _, name := range processes {
		for _, node := range lab.Nodes {
			c.kill(t, node, name)
		}
	}
	for _, node := range lab.Nodes {
		c.removeLeftBehind(t, node)
	}
	began := time.Now()
	for _, name := range processes {
		for _, node := range lab.Nodes {
			c.Start(t, node, name)
		}
	}
	for _, node := range lab.Nodes {
		c.AwaitReady(t, node) // and starts an apiserver again that gave up before its etcd was there, as a kubelet does
	}
	ready := time.Since(began)
	holder := c.awaitHolder(t, "")
	t.Logf("three apiservers ready after %v, a holder (%s) after %v", ready.Round(time.Millisecond), holder, time.Since(began).Round(time.Millisecond))

	// Through the virtual IP, as the kubeconfig has it.
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		t.Fatal(err)
	}
	if want := "https://" + os.Getenv("LAB_VIP") + ":6443"; config.Host != want {
		t.Fatalf("the kubeconfig leads to %s, not to %s", config.Host, want)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), lab.RecoverWithin)
	defer cancel()
	lab.Await(t, ctx, "answer through the virtual IP", func() bool {
		limited, cancel := context.WithTimeout(ctx, attemptWithin)
		defer cancel()
		_, err := client.CoreV1().Namespaces().Get(limited, leaseNamespace, metav1.GetOptions{})
		return err == nil
	})
	c.judge(t)
}

// kill kills a process of a node; if it holds the address, the judge knows.
func (c *cluster) kill(t *testing.T, node, name string) {
	t.Helper()
	if name == process(c.system(node)) {
		c.strike(t, node, "KILL")
		return
	}
	c.Signal(t, node, name, "KILL")
}
