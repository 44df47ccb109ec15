package lease

import (
	"bufio"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"vipd/tests/kube/lab"
)

// calmFor is how long the apiservers' audit logs are read while nothing happens.
const calmFor = time.Minute

// request is a line of an apiserver's audit log: of a watch there are two, one for its beginning and one for its end.
type request struct {
	Stage     string
	Verb      string
	UserAgent string
	ObjectRef struct{ Namespace, Name string }
}

// load is what one user agent asked of the Lease.
type load struct {
	// verbs counts the requests; a watch counts when it begins.
	verbs map[string]int
	// open are the watches that have begun and not ended.
	open int
}

func TestTheElectionAsksLittleOfTheAPI(t *testing.T) {
	c := open(t)
	systems := []string{usual.ofVipd(), usual.ofVipd(), usual.ofClientGo()}
	began := c.marks(t)
	for place, node := range lab.Nodes {
		c.install(t, node, systems[place])
		c.awaitHolder(t, "") // so that the first node is the holder
	}
	holder := c.awaitHolder(t, "")
	if holder != lab.Nodes[0] {
		t.Fatalf("%s holds the Lease, not the node that came first", holder)
	}
	pause(2 * usual.retry) // what a start asks is over

	start := c.marks(t)
	pause(calmFor)
	calm := c.requests(t, start)
	all := c.requests(t, began)
	c.assertRunning(t)
	if c.awaitHolder(t, "") != holder {
		t.Fatal("the holder changed: it was no calm minute")
	}

	// One more than fits, because a minute may begin and end with one.
	rounds := int(calmFor/usual.retry) + 1
	for _, agent := range slices.Sorted(maps.Keys(all)) {
		seen := calm[agent]
		if seen == nil {
			seen = &load{} // its watch began before the minute, and nothing was to be asked in it
		}
		t.Logf("%-28s in a minute: %v; watches open: %d", agent, seen.verbs, all[agent].open)
		writes := seen.verbs["update"] + seen.verbs["patch"] + seen.verbs["create"] + seen.verbs["delete"]
		if ofHolder := strings.Contains(agent, holder); writes > 0 && !ofHolder {
			t.Errorf("%s doesn't hold the Lease and wrote %d times", agent, writes)
		} else if ofHolder && (writes > rounds || writes < rounds/2) {
			t.Errorf("%s wrote %d times in %v: want one in each retry period of %v", agent, writes, calmFor, usual.retry)
		}
		// Whoever begins a watch anew reads, too.
		if reads := seen.verbs["get"] + seen.verbs["list"] + seen.verbs["watch"]; reads > rounds {
			t.Errorf("%s read the Lease %d times in %v", agent, reads, calmFor)
		}
		if all[agent].open > 1 {
			t.Errorf("%s has %d watches open", agent, all[agent].open)
		}
	}
	if len(all) != len(lab.Nodes) {
		t.Errorf("%d user agents asked for the Lease, want one of each node: %q", len(all), slices.Sorted(maps.Keys(all)))
	}
}

// auditLog is the file with a node's audit log.
func (c *cluster) auditLog(node string) string {
	return filepath.Join(c.nodes[node].Folder, "audit.log")
}

// marks are the places up to which the audit logs are written.
func (c *cluster) marks(t *testing.T) map[string]int64 {
	t.Helper()
	marks := map[string]int64{}
	for _, node := range lab.Nodes {
		about, err := os.Stat(c.auditLog(node))
		if err != nil {
			t.Fatal(err)
		}
		marks[node] = about.Size()
	}
	return marks
}

// requests sums up what was asked of the Lease since the marks, through all apiservers, by user agent. The tests' own is left out.
func (c *cluster) requests(t *testing.T, since map[string]int64) map[string]*load {
	t.Helper()
	loads := map[string]*load{}
	for _, node := range lab.Nodes {
		file, err := os.Open(c.auditLog(node))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.Seek(since[node], 0); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(file)
		for {
			line, err := lines.ReadBytes('\n')
			if err != nil {
				break // the end, or a line that is being written
			}
			var asked request
			if err := json.Unmarshal(line, &asked); err != nil {
				t.Fatalf("%s's audit log has %q: %v", node, line, err)
			}
			// A list or watch of all Leases has no name: it is one of too much.
			ofLease := asked.ObjectRef.Namespace == leaseNamespace && (asked.ObjectRef.Name == leaseName || asked.ObjectRef.Name == "")
			ofElection := strings.HasPrefix(asked.UserAgent, "vipd/") || strings.HasPrefix(asked.UserAgent, "participant ")
			if !ofLease || !ofElection {
				continue
			}
			seen := loads[asked.UserAgent]
			if seen == nil {
				seen = &load{verbs: map[string]int{}}
				loads[asked.UserAgent] = seen
			}
			switch {
			case asked.Verb != "watch":
				seen.verbs[asked.Verb]++
			case asked.Stage == "ResponseStarted":
				seen.verbs["watch"]++
				seen.open++
			default:
				seen.open--
			}
		}
		_ = file.Close()
	}
	return loads
}
