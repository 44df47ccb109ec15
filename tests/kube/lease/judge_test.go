package lease

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"vipd/tests/kube/lab"
)

// grain is how much later than it happened the lab may be told of an address that came or went, with three apiservers on the same
// two cores: a shorter overlap may be none.
const grain = 10 * time.Millisecond

// kernelGrain is how long the kernel may leave an address on a node whose vipd was killed or frozen: lifetimes count in seconds.
// The node doesn't answer for it by then, which is judged by ARP.
const kernelGrain = 3 * time.Second

// stay is a time for which a node held the virtual IP. Times are those of CLOCK_MONOTONIC.
type stay struct {
	node, by    string
	from, until time.Duration
	// since is when its vipd was killed or frozen; zero if it was not.
	since time.Duration
}

func (s stay) String() string {
	return fmt.Sprintf("%s (%s) from %.3f s to %.3f s", s.node, s.by, s.from.Seconds(), s.until.Seconds())
}

// period is a line of the participant's journal.
type period struct {
	Event string        `json:"event"`
	From  time.Duration `json:"from_ns"`
	Until time.Duration `json:"until_ns"`
	Now   time.Duration `json:"ns"`
}

// staysOfParticipant are the times in which client-go's rules let a node lead: until each deadline, or until it gave up before.
func staysOfParticipant(node string, journal []period) []stay {
	var stays []stay
	for _, line := range journal {
		switch last := len(stays) - 1; line.Event {
		case "leads":
			if last >= 0 && line.From <= stays[last].until {
				stays[last].until = max(stays[last].until, line.Until)
			} else {
				stays = append(stays, stay{node: node, by: participant, from: line.From, until: line.Until})
			}
		case "ends":
			if last >= 0 {
				stays[last].until = min(stays[last].until, line.Now)
			}
		}
	}
	return stays
}

// tenure is a time for which a system ran on a node, and the times when it was killed or frozen.
type tenure struct {
	system      string
	from, until time.Duration
	struck      []time.Duration
}

// staysOfVipd are the times in which a node that ran vipd had one of the addresses.
func staysOfVipd(node string, tenures []tenure, changes []lab.Change, now time.Duration) []stay {
	var stays []stay
	var held []string
	open := false
	for _, change := range changes {
		if change.Node != node {
			continue
		}
		had := len(held) > 0
		held = slices.DeleteFunc(held, func(address string) bool { return address == change.Address })
		if change.Held {
			held = append(held, change.Address)
		}
		has := len(held) > 0
		if !had && has {
			if run := during(tenures, change.At); run != nil && isVipd(run.system) {
				stays = append(stays, stay{node: node, by: run.system, from: change.At, until: now})
				open = true
			}
		}
		if had && !has && open {
			stays[len(stays)-1].until = change.At
			open = false
		}
	}
	for i := range stays {
		for _, tenure := range tenures {
			for _, at := range tenure.struck {
				if stays[i].from <= at && at < stays[i].until && stays[i].since == 0 {
					stays[i].since = at
				}
			}
		}
	}
	return stays
}

func during(tenures []tenure, at time.Duration) *tenure {
	for i := range tenures {
		if tenures[i].from <= at && at < tenures[i].until {
			return &tenures[i]
		}
	}
	return nil
}

func isVipd(system string) bool { return strings.HasPrefix(system, "vipd") }

// overlaps says where two nodes held the address at once for longer than can be a matter of measurement.
func overlaps(stays []stay) []string {
	var found []string
	for i, one := range stays {
		for _, other := range stays[i+1:] {
			if one.node == other.node {
				continue
			}
			begin, end := max(one.from, other.from), min(one.until, other.until)
			allowed := grain
			for _, stay := range []stay{one, other} {
				if stay.since != 0 && stay.since <= begin {
					allowed = kernelGrain
				}
			}
			if end-begin > allowed {
				found = append(found, fmt.Sprintf("two holders for %v: %v, and %v", (end-begin).Round(time.Millisecond), one, other))
			}
		}
	}
	return found
}

// gaps are the times between two moments in which nobody held the address.
func gaps(stays []stay, from, until time.Duration) []time.Duration {
	ordered := slices.Clone(stays)
	slices.SortFunc(ordered, func(a, b stay) int { return int(a.from - b.from) })
	var found []time.Duration
	for _, stay := range ordered {
		if stay.from > from && stay.from < until {
			found = append(found, stay.from-from)
		}
		from = max(from, stay.until)
	}
	if from < until {
		found = append(found, until-from)
	}
	return found
}

// longestGap is the longest of them.
func longestGap(stays []stay, from, until time.Duration) time.Duration {
	return slices.Max(append(gaps(stays, from, until), 0))
}

// The judge can find against: each history here has a fault or just none.
func TestTheJudgeFindsTwoHolders(t *testing.T) {
	const s, ms = time.Second, time.Millisecond
	leads := func(from, until time.Duration) period { return period{Event: "leads", From: from, Until: until} }
	ends := func(now time.Duration) period { return period{Event: "ends", Now: now} }
	vipd := func(node string, struck ...time.Duration) []stay {
		runs := []tenure{{system: "vipd-lease-2", from: 0, until: 100 * s, struck: struck}}
		history := []lab.Change{
			{At: 10 * s, Node: node, Address: "a", Held: true}, {At: 10*s + ms, Node: node, Address: "b", Held: true},
			{At: 14 * s, Node: node, Address: "b"}, {At: 15 * s, Node: node, Address: "a"},
		}
		return staysOfVipd(node, runs, history, 100*s)
	}
	for name, history := range map[string]struct {
		stays  []stay
		faults int
	}{
		"one after the other":     {append(vipd("one"), staysOfParticipant("two", []period{leads(15*s, 17*s)})...), 0},
		"before the address left": {append(vipd("one"), staysOfParticipant("two", []period{leads(15*s-20*ms, 17*s)})...), 1},
		"renewed and released":    {append(vipd("one"), staysOfParticipant("two", []period{leads(7*s, 9*s), leads(8*s, 11*s), ends(10 * s)})...), 0},
		"renewed, not released":   {append(vipd("one"), staysOfParticipant("two", []period{leads(7*s, 9*s), leads(8*s, 11*s)})...), 1},
		"killed, kernel's grain":  {append(vipd("one", 12*s), staysOfParticipant("two", []period{leads(14*s, 17*s)})...), 0},
		"killed, more than that":  {append(vipd("one", 11*s), staysOfParticipant("two", []period{leads(11*s+500*ms, 17*s)})...), 1},
		"the same node":           {append(vipd("one"), staysOfParticipant("one", []period{leads(11*s, 17*s)})...), 0},
		"two of vipd":             {append(vipd("one"), vipd("two")...), 1},
	} {
		if found := overlaps(history.stays); len(found) != history.faults {
			t.Errorf("%s: %d faults, want %d: %q", name, len(found), history.faults, found)
		}
	}
	if found := gaps(vipd("one"), 9*s, 16*s); !slices.Equal(found, []time.Duration{s, s}) {
		t.Errorf("the gaps are %v", found)
	}
}

// So it does where two hold the address in earnest. A Lease that is rewritten to name a follower makes it holder, by client-go's
// rules, while the holder before it may still lead.
func TestTheJudgeFindsTwoHoldersThatClientGoMakesWhenAFollowerIsWrittenIntoTheLease(t *testing.T) {
	c := open(t)
	for _, node := range lab.Nodes {
		c.install(t, node, quick.ofClientGo())
	}
	// A follower looks in time for an overlap in most tries, not in all.
	const tries = 20
	for try := range tries {
		holder := c.awaitHolder(t, "")
		follower := lab.Nodes[(slices.Index(lab.Nodes, holder)+1)%len(lab.Nodes)]
		c.rewriteHolder(t, follower)
		c.awaitHolder(t, holder)
		if found := overlaps(c.stays(t)); len(found) > 0 {
			t.Logf("try %d: %s", try+1, found[0])
			return
		}
	}
	t.Errorf("no two holders were found in %d tries", tries)
}
