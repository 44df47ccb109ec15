package lease

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"vipd/tests/kube/lab"
)

// changesFor is how long changes go on where their number is not given.
const changesFor = 3 * time.Minute

// change is something that happens to a node, the holder mostly; it returns when it is over.
type change struct {
	name string
	// share is how many lots it has in the draw.
	share int
	run   func(c *cluster, t *testing.T, node string, random *rand.Rand)
}

// changes are what can happen. One is missing: a Lease that is deleted makes two holders of client-go's own, because whoever
// comes first finds nothing to wait for.
var changes = []change{
	{"clean release", 4, func(c *cluster, t *testing.T, node string, _ *rand.Rand) {
		name := process(c.system(node))
		c.Stop(t, node, name)
		c.awaitHolder(t, node)
		c.Start(t, node, name)
	}},
	{"kill", 4, func(c *cluster, t *testing.T, node string, _ *rand.Rand) {
		c.strike(t, node, "KILL")
		c.removeLeftBehind(t, node)
		c.awaitHolder(t, node)
		c.Start(t, node, process(c.system(node)))
	}},
	{"kill, and start at once", 3, func(c *cluster, t *testing.T, node string, _ *rand.Rand) {
		c.strike(t, node, "KILL")
		c.Start(t, node, process(c.system(node)))
	}},
	{"short freeze", 3, func(c *cluster, t *testing.T, node string, random *rand.Rand) {
		c.freeze(t, node, between(random, 50*time.Millisecond, quick.renewWithin-quick.retry))
	}},
	{"freeze for longer than the lease", 4, func(c *cluster, t *testing.T, node string, random *rand.Rand) {
		c.freeze(t, node, between(random, quick.lasts, 3*quick.lasts))
	}},
	{"apiserver restarted", 1, func(c *cluster, t *testing.T, node string, _ *rand.Rand) {
		// As a kubelet does it: half a minute to end, and no more. An apiserver with open watches may need it all.
		c.Do(t, map[string]any{"do": "restart", "node": node, "process": apiserver})
		c.AwaitReady(t, node)
	}},
	{"apiserver killed", 1, func(c *cluster, t *testing.T, node string, _ *rand.Rand) {
		c.Signal(t, node, apiserver, "KILL")
		c.Start(t, node, apiserver)
		c.AwaitReady(t, node)
	}},
	{"quorum of etcd lost", 2, func(c *cluster, t *testing.T, _ string, random *rand.Rand) {
		frozen := random.Perm(len(lab.Nodes))[:2]
		for _, place := range frozen {
			c.Signal(t, lab.Nodes[place], etcd, "STOP")
		}
		pause(between(random, quick.lasts/2, 3*quick.lasts))
		for _, place := range frozen {
			c.Signal(t, lab.Nodes[place], etcd, "CONT")
		}
	}},
	{"holder rewritten by hand", 3, func(c *cluster, t *testing.T, _ string, _ *rand.Rand) {
		c.rewriteHolder(t, "somebody-else")
	}},
}

func TestAtMostOneNodeHoldsWhateverHappens(t *testing.T) {
	seed, count := uint64(time.Now().UnixNano()), 0
	for name, set := range map[string]func(uint64){
		"LEASE_SEED":    func(value uint64) { seed = value },
		"LEASE_CHANGES": func(value uint64) { count = int(value) },
	} {
		if text := os.Getenv(name); text != "" {
			value, err := strconv.ParseUint(text, 10, 63)
			if err != nil {
				t.Fatalf("%s is no number: %v", name, err)
			}
			set(value)
		}
	}
	random := rand.New(rand.NewPCG(seed, seed))
	c := open(t)
	systems := composition(t, quick)
	t.Logf("LEASE_SEED=%d; nodes run %q", seed, systems)
	for place, node := range lab.Nodes {
		c.install(t, node, systems[place])
	}

	tally := map[string]int{}
	enough := func(done int) bool { return done >= count }
	if count == 0 {
		end := time.Now().Add(changesFor)
		enough = func(int) bool { return time.Now().After(end) }
	}
	done := 0
	for ; !enough(done) && !t.Failed(); done++ {
		holder := c.awaitHolder(t, "")
		node := holder
		// What happens to a follower must not disturb the holder.
		if random.IntN(4) == 0 {
			node = lab.Nodes[random.IntN(len(lab.Nodes))]
		}
		change := draw(random)
		before, began := c.now(t), time.Now()
		change.run(c, t, node, random)
		over := time.Now()
		next := c.awaitHolder(t, "")
		c.judge(t)
		c.assertRunning(t)
		tally[change.name]++
		none := longestGap(c.stays(t), before, c.now(t))
		t.Logf("%d. %s on %s, over after %v; holder %s → %s, nobody held the address for %v at most", done+1, change.name, node,
			over.Sub(began).Round(10*time.Millisecond), holder, next, none.Round(time.Millisecond))
	}
	guarded := 0
	for _, node := range lab.Nodes {
		for _, line := range c.journal(t, node) {
			if line.Event == "guarded" && line.Now >= c.began {
				guarded++
			}
		}
	}
	t.Logf("%d changes: %v; client-go was kept from releasing another's Lease %d times", done, tally, guarded)
}

// assertRunning checks that all three take part: an election is no proof of those that have left it.
func (c *cluster) assertRunning(t *testing.T) {
	t.Helper()
	for name, node := range c.Describe(t) {
		if wanted := process(c.system(name)); !slices.Contains(node.Running, wanted) {
			c.lastWords(t)
			t.Fatalf("%s doesn't run on %s", wanted, name)
		}
	}
}

func draw(random *rand.Rand) change {
	total := 0
	for _, change := range changes {
		total += change.share
	}
	lot := random.IntN(total)
	for _, change := range changes {
		if lot -= change.share; lot < 0 {
			return change
		}
	}
	panic("the lots are as many as the shares")
}

func between(random *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(random.Int64N(int64(most-least)))
}

// pause lets a time pass that is itself what is tested.
func pause(duration time.Duration) { <-time.After(duration) }

// freeze stops what holds the address on a node for a while.
func (c *cluster) freeze(t *testing.T, node string, duration time.Duration) {
	t.Helper()
	name := process(c.system(node))
	end := time.After(duration)
	c.strike(t, node, "STOP")
	if duration > quick.renewWithin {
		c.removeLeftBehind(t, node)
	}
	<-end
	c.Signal(t, node, name, "CONT")
}

// removeLeftBehind does what an operator must for a participant that was killed or frozen, at the end of its deadline: nothing
// else takes its address off. vipd needs nobody: the kernel does it.
func (c *cluster) removeLeftBehind(t *testing.T, node string) {
	t.Helper()
	if isVipd(c.system(node)) {
		return
	}
	stays := staysOfParticipant(node, c.journal(t, node))
	if len(stays) > 0 {
		pause(stays[len(stays)-1].until - c.now(t))
	}
	if slices.Contains(c.Holders(t), node) {
		c.DeleteVIP(t, node)
	}
}

// rewriteHolder writes a holder that doesn't exist into the Lease. (One that exists would take the rewriting for its election, by
// client-go's rules, while the true holder still may lead.)
func (c *cluster) rewriteHolder(t *testing.T, holder string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), lab.RecoverWithin)
	defer cancel()
	patch := fmt.Sprintf(`{"spec":{"holderIdentity":%q}}`, holder)
	lab.Await(t, ctx, "rewriting of the holder", func() bool {
		_, err := c.leases(lab.Nodes[0]).Patch(ctx, leaseName, "application/merge-patch+json", []byte(patch), metav1.PatchOptions{})
		return err == nil
	})
}
