package suite

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sync/atomic"
)

// What vipd prints, by what it is.
var manifests = map[string][]string{
	"the static pod":        {"sample", "manifest"},
	"the pod like kube-vip": {"manifest", "pod", "--interface", "ens3", "--address", "10.0.0.162", "--controlplane", "--arp", "--leaderElection"},
	"the DaemonSet":         {"manifest", "daemonset", "--inCluster", "--address", "10.0.0.162", "--controlplane", "--arp", "--leaderElection"},
	"the rights":            {"manifest", "rbac"},
	"the rights in a role":  {"manifest", "rbac", "--role"},
	"the rights to label":   {"manifest", "rbac", "--enableNodeLabeling"},
}

// Nothing is created: the server validates and admits each object as if it were.
func TestTheApiserverAcceptsEveryManifest(t *testing.T) {
	c := open(t)
	// Admission looks for the account that a pod has without naming one. A controller-manager would have made it.
	var lost atomic.Int64
	account := &v1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	_, err := c.client(t, &lost).CoreV1().ServiceAccounts(metav1.NamespaceSystem).Create(context.Background(), account, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	for what, arguments := range manifests {
		if said, err := dryRun(t, generated(t, arguments)); err != nil {
			t.Errorf("%s is refused: %v: %s", what, err, said)
		} else {
			t.Logf("%s: %s", what, strings.ReplaceAll(strings.TrimSpace(said), "\n", "; "))
		}
	}

	// It can be refused, by each who looks: the strict decoder, validation, admission.
	set := generated(t, manifests["the DaemonSet"])
	pod := generated(t, manifests["the static pod"])
	for name, wrong := range map[string]struct{ document, from, to, reason string }{
		"a misspelt field":         {set, "minReadySeconds:", "minReadySecond:", "unknown field"},
		"no way to update":         {set, "maxUnavailable: 1", "maxUnavailable: 0", "maxUnavailable"},
		"a priority of its own":    {pod, "priority: 2000001000", "priority: 7", "priority"},
		"a probe that never fails": {pod, "failureThreshold: 6", "failureThreshold: -1", "failureThreshold"},
	} {
		if !strings.Contains(wrong.document, wrong.from) {
			t.Fatalf("there is no %q in the manifest", wrong.from)
		}
		said, err := dryRun(t, strings.Replace(wrong.document, wrong.from, wrong.to, 1))
		if err == nil || !strings.Contains(said, wrong.reason) {
			t.Errorf("%s: %v: %s", name, err, said)
		}
	}
}

// generated is what vipd prints.
func generated(t *testing.T, arguments []string) string {
	t.Helper()
	binary := os.Getenv("VIPD_BIN")
	if binary == "" {
		t.Fatal("VIPD_BIN names no vipd: run tests/kube/run")
	}
	document, err := exec.Command(binary, arguments...).Output()
	if err != nil {
		t.Fatalf("vipd %s: %v", strings.Join(arguments, " "), err)
	}
	return string(document)
}

// dryRun lets the server judge the documents; it returns what kubectl says.
func dryRun(t *testing.T, documents string) (string, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "manifest.yaml")
	if err := os.WriteFile(file, []byte(documents), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 6*attemptWithin)
	defer cancel()
	command := kubectlCommand(ctx, "create", "--dry-run=server", "--validate=strict", "-f", file)
	command.Stderr = nil // with what is created, or why not
	said, err := command.CombinedOutput()
	return string(said), err
}
