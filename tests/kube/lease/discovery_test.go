package lease

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"vipd/tests/kube/lab"
)

const (
	// discovering is a system of the lab: the balancer's backends are the control-plane nodes that the API tells.
	discovering = "vipd-lease-2-discover"
	// frontPort is the balancer's.
	frontPort = "8443"
	// controlPlane is the label of control-plane nodes.
	controlPlane = "node-role.kubernetes.io/control-plane"
)

// What the balancer stands before is what the API says the control plane is: nodes that come and go, and what was known of them
// when there is no API to ask.
func TestTheBalancerFollowsTheControlPlanesNodes(t *testing.T) {
	skipWithoutVipd(t)
	c := open(t)
	first, second, third := lab.Nodes[0], lab.Nodes[1], lab.Nodes[2]
	c.addNode(t, first)
	c.addNode(t, second)
	for _, node := range lab.Nodes {
		c.install(t, node, discovering)
	}
	c.awaitHolder(t, "")
	for _, node := range lab.Nodes {
		c.awaitBackends(t, node, first, second)
	}
	c.addNode(t, third)
	for _, node := range lab.Nodes {
		c.awaitBackends(t, node, first, second, third)
	}

	// Each has asked the others how they are, and tells it: of the owner, above all.
	holder := c.awaitHolder(t, "")
	for _, node := range lab.Nodes {
		c.awaitOthers(t, node, holder)
	}

	before := c.backends(t, holder)
	for range 30 {
		c.askThroughVIP(t)
	}
	for name, after := range c.backends(t, holder) {
		if after.Total == before[name].Total {
			t.Errorf("of 30 connections none went to %s", name)
		}
	}

	// A node that is about to be emptied gets nothing new, whichever host balances.
	c.cordon(t, second, true)
	for _, node := range lab.Nodes {
		c.awaitCordon(t, node, second, true)
	}
	holder = c.awaitHolder(t, "")
	before = c.backends(t, holder)
	for range 30 {
		c.askThroughVIP(t)
	}
	if after := c.backends(t, holder)[second]; after.Total != before[second].Total {
		t.Errorf("%d connections went to a cordoned node", after.Total-before[second].Total)
	}
	c.cordon(t, second, false)
	for _, node := range lab.Nodes {
		c.awaitCordon(t, node, second, false)
	}

	c.removeNode(t, third)
	for _, node := range lab.Nodes {
		c.awaitBackends(t, node, first, second)
	}

	// A start with nobody to ask: what was remembered on disk has to do.
	for _, node := range lab.Nodes {
		c.kill(t, node, apiserver)
	}
	c.kill(t, first, vipd)
	c.Start(t, first, vipd)
	c.awaitKnown(t, first, "dead", first, second)
	for _, node := range lab.Nodes {
		c.Start(t, node, apiserver)
		c.AwaitReady(t, node)
	}
	for _, node := range lab.Nodes {
		c.awaitBackends(t, node, first, second)
	}
	c.awaitHolder(t, "")
	c.askThroughVIP(t)
}

// backend is a part of what `vipd status --json` says of one.
type backend struct {
	Name, Health string
	Cordoned     bool
	Total        int
}

// status is a part of what `vipd status --json` says.
type status struct {
	Owners        []struct{ State string }
	LoadBalancers []struct{ Backends []backend } `json:"load_balancers"`
	Others        map[string]struct{ Status *status }
}

// status asks a node's vipd; nothing where it doesn't answer yet.
func (c *cluster) status(t *testing.T, node string) status {
	t.Helper()
	command := exec.Command(os.Getenv("VIPD_BIN"), "status", "--json", "--socket", filepath.Join(c.nodes[node].Folder, "vipd.sock"))
	text, err := command.Output()
	if err != nil {
		return status{}
	}
	var found status
	if err := json.Unmarshal(text, &found); err != nil {
		t.Fatalf("vipd status --json on %s: %v\n%s", node, err, text)
	}
	return found
}

// awaitOthers returns when a node's vipd tells of all others, and that only the holder has the address.
func (c *cluster) awaitOthers(t *testing.T, node, holder string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), lab.RecoverWithin)
	defer cancel()
	lab.Await(t, ctx, node+" tells of the others", func() bool {
		others := c.status(t, node).Others
		for _, name := range lab.Nodes {
			said := others[name].Status
			if name == node && said != nil {
				t.Fatalf("%s is another to itself", node)
			}
			if name == node {
				continue
			}
			if said == nil || len(said.Owners) != 1 || (said.Owners[0].State == "active") != (name == holder) {
				return false
			}
		}
		return true
	})
}

// backends are those of a node's balancer, by name; none where vipd doesn't answer yet.
func (c *cluster) backends(t *testing.T, node string) map[string]backend {
	t.Helper()
	found := map[string]backend{}
	for _, balancer := range c.status(t, node).LoadBalancers {
		for _, one := range balancer.Backends {
			found[one.Name] = one
		}
	}
	return found
}

// awaitBackends returns when a node's balancer stands before just these nodes, all of them ready.
func (c *cluster) awaitBackends(t *testing.T, node string, names ...string) {
	t.Helper()
	c.awaitKnown(t, node, "ready", names...)
}

// awaitKnown returns when a node's balancer stands before just these nodes, and has found all of them so.
func (c *cluster) awaitKnown(t *testing.T, node, health string, names ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), lab.RecoverWithin)
	defer cancel()
	var found map[string]backend
	defer func() {
		if t.Failed() {
			t.Logf("the balancer of %s stands before %+v", node, found)
			c.lastWords(t)
		}
	}()
	lab.Await(t, ctx, node+"'s backends", func() bool {
		found = c.backends(t, node)
		for _, name := range names {
			if found[name].Health != health {
				return false
			}
		}
		return len(found) == len(names)
	})
}

// cordon marks a node as about to be emptied, or not any more, as `kubectl cordon` and `uncordon` do.
func (c *cluster) cordon(t *testing.T, name string, on bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), attemptWithin)
	defer cancel()
	patch := fmt.Appendf(nil, `{"spec":{"unschedulable":%t}}`, on)
	nodes := c.clients[lab.Nodes[0]].CoreV1().Nodes()
	if _, err := nodes.Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

// awaitCordon returns when a node's balancer knows that another is cordoned, or that it isn't.
func (c *cluster) awaitCordon(t *testing.T, node, other string, on bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), lab.RecoverWithin)
	defer cancel()
	lab.Await(t, ctx, node+" hears of the cordon", func() bool {
		found, known := c.backends(t, node)[other]
		return known && found.Cordoned == on
	})
}

// askThroughVIP asks an apiserver through the balancer at the virtual IP, on a new connection.
func (c *cluster) askThroughVIP(t *testing.T) {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		t.Fatal(err)
	}
	config.Host = "https://" + net.JoinHostPort(os.Getenv("LAB_VIP"), frontPort)
	tlsConfig, err := rest.TLSConfigFor(config)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: tlsConfig, DisableKeepAlives: true, TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}}
	client, err := kubernetes.NewForConfigAndClient(config, &http.Client{Transport: transport, Timeout: attemptWithin})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Discovery().ServerVersion(); err != nil {
		t.Errorf("through the balancer: %v", err)
	}
}

// addNode registers a node of the lab as one of the control plane, as its kubelet would, until the test ends.
func (c *cluster) addNode(t *testing.T, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), attemptWithin)
	defer cancel()
	nodes := c.clients[name].CoreV1().Nodes()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{controlPlane: ""}}}
	node, err := nodes.Create(ctx, node, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = nodes.Delete(context.Background(), name, metav1.DeleteOptions{}) // gone already, if the test deleted it
	})
	node.Status.Addresses = []corev1.NodeAddress{
		{Type: corev1.NodeHostName, Address: name},
		{Type: corev1.NodeInternalIP, Address: c.nodes[name].Address},
	}
	if _, err := nodes.UpdateStatus(ctx, node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// removeNode deletes a node from the API.
func (c *cluster) removeNode(t *testing.T, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), attemptWithin)
	defer cancel()
	if err := c.clients[name].CoreV1().Nodes().Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}
