package lease

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"vipd/tests/kube/lab"
)

// aloneName is that of the ServiceAccount and its Role, as docs/balancer-alone.md has them.
const aloneName = "vipd"

// alone is a vipd that only balances, beside the tests: no node of the cluster, as a host of its workers is.
type alone struct {
	folder  string
	command *exec.Cmd
}

// A balancer on localhost stands before the apiservers that the cluster names, with no more rights than to read those, and finds them in
// its memory when there is nobody to ask.
func TestABalancerAloneFollowsTheApiservers(t *testing.T) {
	skipWithoutVipd(t)
	c := open(t)
	a := &alone{folder: t.TempDir()}
	t.Cleanup(a.kill)
	c.grant(t, filepath.Join(a.folder, "kubeconfig"))
	var all []string
	for _, node := range lab.Nodes {
		all = append(all, c.nodes[node].Address+":6443")
	}
	// One is known beforehand; it tells of the others.
	config := fmt.Sprintf(`kubernetes: {kubeconfig: %[1]s/kubeconfig, memory: %[1]s/apiservers.json}
loadBalancers:
- name: api
  port: 6443
  bind: [127.0.0.1]
  discover: true
  backends: [{address: "%[2]s", port: 6443}]
`, a.folder, c.nodes[lab.Nodes[0]].Address)
	if err := os.WriteFile(filepath.Join(a.folder, "config.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}

	a.start(t)
	a.await(t, "ready", all...)
	c.askLocalhost(t)

	// The one that it watches at ends, which the others notice and write down.
	c.Signal(t, lab.Nodes[0], apiserver, "KILL")
	a.await(t, "ready", all[1:]...)
	c.askLocalhost(t)
	c.Start(t, lab.Nodes[0], apiserver)
	c.AwaitReady(t, lab.Nodes[0])
	a.await(t, "ready", all...)

	// A start with nobody to ask.
	for _, node := range lab.Nodes {
		c.Signal(t, node, apiserver, "KILL")
	}
	a.kill()
	a.start(t)
	a.await(t, "dead", all...)
	for _, node := range lab.Nodes {
		c.Start(t, node, apiserver)
		c.AwaitReady(t, node)
	}
	a.await(t, "ready", all...)
	c.askLocalhost(t)
}

// grant makes the ServiceAccount and its Role, and writes a kubeconfig with a token of it.
func (c *cluster) grant(t *testing.T, file string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), attemptWithin)
	defer cancel()
	client := c.clients[lab.Nodes[0]]
	meta := metav1.ObjectMeta{Name: aloneName, Namespace: corev1.NamespaceDefault}
	accounts := client.CoreV1().ServiceAccounts(meta.Namespace)
	roles, bindings := client.RbacV1().Roles(meta.Namespace), client.RbacV1().RoleBindings(meta.Namespace)
	t.Cleanup(func() {
		// What is there no more needs no deleting.
		_ = bindings.Delete(context.Background(), aloneName, metav1.DeleteOptions{})
		_ = roles.Delete(context.Background(), aloneName, metav1.DeleteOptions{})
		_ = accounts.Delete(context.Background(), aloneName, metav1.DeleteOptions{})
	})
	rule := rbacv1.PolicyRule{APIGroups: []string{"discovery.k8s.io"}, Resources: []string{"endpointslices"}, Verbs: []string{"list", "watch"}}
	_, errAccount := accounts.Create(ctx, &corev1.ServiceAccount{ObjectMeta: meta}, metav1.CreateOptions{})
	_, errRole := roles.Create(ctx, &rbacv1.Role{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{rule}}, metav1.CreateOptions{})
	_, errBinding := bindings.Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: meta,
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: aloneName},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: aloneName, Namespace: meta.Namespace}},
	}, metav1.CreateOptions{})
	for _, err := range []error{errAccount, errRole, errBinding} {
		if err != nil {
			t.Fatal(err)
		}
	}
	c.writeToken(t, meta.Namespace, aloneName, file)
}

// askLocalhost asks an apiserver through the balancer.
func (c *cluster) askLocalhost(t *testing.T) {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		t.Fatal(err)
	}
	config.Host, config.TLSClientConfig.ServerName, config.Timeout = "https://127.0.0.1:6443", "kubernetes", attemptWithin
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Discovery().ServerVersion(); err != nil {
		t.Errorf("through the balancer on localhost: %v", err)
	}
}

func (a *alone) start(t *testing.T) {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(a.folder, "log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	a.command = exec.Command(os.Getenv("VIPD_BIN"), "start", "-c", filepath.Join(a.folder, "config.yaml"), "--socket", a.socket())
	a.command.Stderr = log
	// It must not outlive the tests, however these end.
	a.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := a.command.Start(); err != nil {
		t.Fatal(err)
	}
}

func (a *alone) kill() {
	if a.command != nil {
		_ = a.command.Process.Kill()
		_ = a.command.Wait()
		a.command = nil
	}
}

func (a *alone) socket() string { return filepath.Join(a.folder, "vipd.sock") }

// await returns when it stands before just these apiservers, and has found all of them so.
func (a *alone) await(t *testing.T, health string, addresses ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), lab.RecoverWithin)
	defer cancel()
	var found []string
	defer func() {
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(a.folder, "log"))
			t.Logf("it stands before %v, and says:\n%s", found, log)
		}
	}()
	lab.Await(t, ctx, "apiservers behind the balancer on localhost that are "+health, func() bool {
		text, err := exec.Command(os.Getenv("VIPD_BIN"), "status", "--json", "--socket", a.socket()).Output()
		if err != nil {
			return false
		}
		var status struct {
			LoadBalancers []struct {
				Backends []struct{ Address, Health string }
			} `json:"load_balancers"`
		}
		if err := json.Unmarshal(text, &status); err != nil || len(status.LoadBalancers) != 1 {
			t.Fatalf("vipd status --json: %v\n%s", err, text)
		}
		found = nil
		var wanted []string
		for _, backend := range status.LoadBalancers[0].Backends {
			found = append(found, backend.Address+" "+backend.Health)
		}
		for _, address := range addresses {
			wanted = append(wanted, address+" "+health)
		}
		slices.Sort(found)
		slices.Sort(wanted)
		return slices.Equal(found, wanted)
	})
}
