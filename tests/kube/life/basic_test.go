package life

import (
	"strings"
	"testing"
)

func TestFourNodesAreReady(t *testing.T) {
	awaitHealthy(t)
	nodes := kubectl(t, "get", "nodes", "--output", "wide")
	t.Logf("\n%s", nodes)
	if ready := strings.Count(nodes, " Ready "); ready != 4 {
		t.Errorf("%d nodes are ready", ready)
	}
}

func TestADeploymentRollsOutOnEveryNode(t *testing.T) {
	kubectl(t, "rollout", "status", "deployment/web", "--timeout=3m")
	kubectl(t, "set", "image", "deployment/web", "web=registry.test/web:2")
	kubectl(t, "rollout", "status", "deployment/web", "--timeout=3m")
	pods := strings.Fields(kubectl(t, "get", "pods", "--selector", "app=web", "--field-selector", "status.phase=Running", "--output",
		`jsonpath={range .items[?(@.spec.containers[0].image=="registry.test/web:2")]}{.metadata.name} {.spec.nodeName} {end}`))
	nodes := map[string]bool{}
	for number := 0; number+1 < len(pods); number += 2 {
		name, node := pods[number], pods[number+1]
		nodes[node] = true
		// From the worker through the virtual IP, an apiserver and the pod network.
		answer := kubectl(t, "get", "--raw", "/api/v1/namespaces/default/pods/"+name+":8080/proxy/")
		if strings.TrimSpace(answer) != name {
			t.Errorf("%s on %s answers %q", name, node, answer)
		}
	}
	if len(nodes) != 4 {
		t.Errorf("pods of the new version run on %v, not on four nodes", nodes)
	}
}
