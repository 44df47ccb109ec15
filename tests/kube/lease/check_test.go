package lease

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"vipd/tests/kube/lab"
)

// finding is one of `vipd check --json`.
type finding struct {
	ID, Verdict, Found, Mend string
}

// `vipd check` asks a real apiserver what a node may do there, and reads what kubeadm has written for kube-proxy.
func TestCheckNamesMissingRightsAndAKubeProxyThatIsNotStrict(t *testing.T) {
	skipWithoutVipd(t)
	c := open(t)
	node := lab.Nodes[0]
	config, admin := c.files(t, node)
	config = replaced(t, config, "\n  memory:", "\n  nodeLabel: true\n  memory:")

	permitted := c.check(t, node, config, admin)
	for _, id := range []string{"credentials", "api", "rights", "events", "node-label", "certificate"} {
		for _, found := range permitted[id] {
			if found.Verdict != "ok" {
				t.Errorf("%s of an administrator: %+v", id, found)
			}
		}
		if len(permitted[id]) == 0 {
			t.Errorf("nothing is said of %s", id)
		}
	}
	if len(permitted["kube-proxy"]) > 0 {
		t.Errorf("there is no kube-proxy: %+v", permitted["kube-proxy"])
	}

	stranger := c.check(t, node, config, replaced(t, admin, "admin.", "stranger."))
	rights := stranger["rights"]
	if len(rights) != 1 || rights[0].Verdict != "warning" || !strings.Contains(rights[0].Mend, "vipd manifest rbac") {
		t.Fatalf("rights of a stranger: %+v", rights)
	}
	for _, words := range []string{"get leases in " + leaseNamespace, "create leases", "update leases", "watch leases", "list nodes"} {
		if !strings.Contains(rights[0].Found, words) {
			t.Errorf("no %q in %q", words, rights[0].Found)
		}
	}

	for id, words := range map[string]string{"events": "create events in default", "node-label": "patch nodes"} {
		found := stranger[id]
		if len(found) != 1 || found[0].Verdict != "warning" || !strings.Contains(found[0].Found, words) || !strings.Contains(found[0].Mend, "vipd manifest rbac") {
			t.Errorf("%s of a stranger: %+v", id, found)
		}
	}

	expired := c.check(t, node, config, replaced(t, admin, "admin.", "expired."))
	if rights := expired["rights"]; len(rights) != 1 || !strings.HasPrefix(rights[0].Found, "not looked at: ") {
		t.Errorf("rights of one whose certificate has expired: %+v", rights)
	}

	c.putKubeProxy(t, "mode: ipvs\nipvs:\n  strictARP: false\n")
	if proxy := c.check(t, node, config, admin)["kube-proxy"]; len(proxy) != 1 || proxy[0].Verdict != "warning" {
		t.Errorf("kube-proxy without strictARP: %+v", proxy)
	}
	c.putKubeProxy(t, "mode: ipvs\nipvs:\n  strictARP: true\n")
	if proxy := c.check(t, node, config, admin)["kube-proxy"]; len(proxy) != 1 || proxy[0].Verdict != "ok" {
		t.Errorf("kube-proxy with strictARP: %+v", proxy)
	}
}

// check runs `vipd check` on a node with these files, and gives what it finds by its name.
func (c *cluster) check(t *testing.T, node, config, kubeconfig string) map[string][]finding {
	t.Helper()
	folder := t.TempDir()
	named := filepath.Join(folder, "kubeconfig")
	config = replaced(t, config, os.Getenv("KUBECONFIG"), named)
	file := filepath.Join(folder, "config.yaml")
	for path, text := range map[string]string{file: config, named: kubeconfig} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), lab.RecoverWithin)
	defer cancel()
	command := exec.CommandContext(ctx, "nsenter", "--net=/run/netns/"+node, os.Getenv("VIPD_BIN"), "check", "--json", "-c", file)
	output, err := command.Output()
	var document struct{ Findings []finding }
	if parsed := json.Unmarshal(output, &document); parsed != nil {
		t.Fatalf("%v, %v: %s", err, parsed, output)
	}
	found := map[string][]finding{}
	for _, one := range document.Findings {
		found[one.ID] = append(found[one.ID], one)
	}
	return found
}

// putKubeProxy writes the ConfigMap that kubeadm writes for kube-proxy.
func (c *cluster) putKubeProxy(t *testing.T, settings string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), attemptWithin)
	defer cancel()
	maps := c.clients[lab.Nodes[0]].CoreV1().ConfigMaps(metav1.NamespaceSystem)
	// What is there no more needs no deleting.
	_ = maps.Delete(ctx, "kube-proxy", metav1.DeleteOptions{})
	made := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "kube-proxy"}, Data: map[string]string{"config.conf": settings}}
	if _, err := maps.Create(ctx, made, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = maps.Delete(context.Background(), "kube-proxy", metav1.DeleteOptions{}) })
}
