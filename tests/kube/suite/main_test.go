// Package suite drives a real control plane through the virtual IP while things break: client-go and kubectl on one side,
// three etcd members, three kube-apiservers and three vipd in network namespaces on the other.
//
// It runs inside the lab, which gives it the client's namespace, a kubeconfig and a control socket:
//
//	vipd-lab exec --kubernetes -- suite.test -test.v
//
// What is asserted is correctness, with deadlines far above what is expected; how long things took is printed.
package suite

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"vipd/tests/kube/lab"
)

// The processes of a node, as the lab calls them.
const (
	vipd      = "vipd"
	apiserver = "apiserver"
)

// kubectlCache is the folder of kubectl's discovery cache.
var kubectlCache string

func TestMain(m *testing.M) {
	flag.Parse()
	lab.Need(map[string]string{
		"LAB_SOCKET":    "the lab's control socket",
		"LAB_VIP":       "the virtual IP",
		"LAB_PORT":      "its port",
		"KUBECONFIG":    "the control plane behind the virtual IP",
		"VIPD_KUBE_BIN": "the folder that tests/kube/build prints",
	})
	folder, err := os.MkdirTemp("", "vipd-kubectl")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	kubectlCache = folder
	code := m.Run()
	_ = os.RemoveAll(folder)
	os.Exit(code)
}
