package suite

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"vipd/tests/kube/lab"
)

// watchers is the number of watches, each over a connection of its own: enough that a balancer that spreads them over three
// apiservers has put some on whichever is taken away.
const watchers = 9

// steadyWrites is how much traffic goes on before and after a fault: two seconds of writes.
const steadyWrites = 40

func TestAWatchLosesNothingWhenTheOwnersApiserverIsKilled(t *testing.T) {
	c := open(t)
	seen, cut := c.underTraffic(t, "apiserver", func(owner string) {
		t.Cleanup(func() { c.Start(t, owner, apiserver) })
		c.Signal(t, owner, apiserver, "KILL")
	})
	assertOneOwner(t, seen)
	if cut == 0 {
		t.Errorf("none of %d watches was on the apiserver that was killed, so nothing is known of those that are", watchers)
	}
}

func TestClientsFollowWhenTheOwnersLinkGoesDown(t *testing.T) {
	c := open(t)
	seen, _ := c.underTraffic(t, "link", func(owner string) {
		t.Cleanup(func() { c.SetLink(t, owner, true) })
		c.SetLink(t, owner, false)
		c.AwaitOtherOwner(t, owner)
	})
	assertOneOwner(t, seen)
}

func TestClientsFollowWhenTheOwnerIsStoppedAndStartedAgain(t *testing.T) {
	c := open(t)
	seen, _ := c.underTraffic(t, "stop", func(owner string) {
		c.Signal(t, owner, vipd, "TERM")
		c.AwaitOtherOwner(t, owner)
		c.Start(t, owner, vipd)
	})
	assertOneOwner(t, seen)
}

// underTraffic runs a fault at the owner while watches, a writer and new clients are at work, until all of them have got over
// it; then it checks that nothing was lost, and prints what each noticed. It returns what the lab saw of the owners, and how many
// watches lost their connection.
func (c cluster) underTraffic(t *testing.T, label string, fault func(owner string)) (lab.Observation, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*lab.RecoverWithin)
	defer cancel()
	owner := c.AwaitOwner(t)
	c.Observe(t)

	traffic := c.startTraffic(ctx, t, label)
	defer traffic.end()
	traffic.awaitProgress(ctx, t, "traffic before the fault")
	started := time.Now()
	fault(owner)
	traffic.awaitProgress(ctx, t, "traffic after the fault")
	recovered := time.Since(started)
	traffic.endWriting()
	for _, watcher := range traffic.watchers {
		lab.Await(t, ctx, "watch that has seen the last writes", func() bool { return watcher.has(traffic.writer.written) })
	}
	traffic.end()

	for _, watcher := range traffic.watchers {
		for _, fault := range watcher.faults(traffic.writer.written) {
			t.Error(fault)
		}
	}
	seen := c.Observe(t)
	t.Logf("owner %s, then %q; moves %v; two owners at once %v, at most %d in ARP", owner, seen.Holders, seen.Moves, seen.Overlaps, seen.ARPAtOnce)
	t.Logf("%s", traffic)
	t.Logf("two more seconds of traffic were complete %v after the fault", recovered.Round(time.Millisecond))
	return seen, traffic.cut()
}

// assertOneOwner checks that one node has the address, and that no two had it, or answered for it, on the way.
func assertOneOwner(t *testing.T, seen lab.Observation) {
	t.Helper()
	if len(seen.Holders) != 1 {
		t.Errorf("the virtual IP is on %d nodes: %q", len(seen.Holders), seen.Holders)
	}
	for _, overlap := range seen.Overlaps {
		t.Errorf("%q had the virtual IP at once for %.1f ms", overlap.Nodes, overlap.Milliseconds)
	}
	if seen.ARPAtOnce > 1 {
		t.Errorf("%d nodes answered one ARP request for the virtual IP", seen.ARPAtOnce)
	}
}

// traffic is everything that uses the control plane during a fault.
type traffic struct {
	writer   writer
	asker    asker
	watchers []*watcher

	stopWriting  func()
	stopWatching context.CancelFunc
	writing      sync.WaitGroup
	watching     sync.WaitGroup
}

func (c cluster) startTraffic(ctx context.Context, t *testing.T, label string) *traffic {
	t.Helper()
	// A run against a control plane that has seen this test before must not meet its objects.
	label = fmt.Sprintf("%s-%d", label, time.Now().UnixNano())
	stop := make(chan struct{})
	watching, stopWatching := context.WithCancel(ctx)
	traffic := &traffic{stopWriting: sync.OnceFunc(func() { close(stop) }), stopWatching: stopWatching}
	traffic.writer.prefix = label
	for range watchers {
		watcher := &watcher{}
		client := c.client(t, &watcher.lost)
		traffic.watchers = append(traffic.watchers, watcher)
		traffic.watching.Go(func() { watcher.run(watching, t, client, label) })
	}
	client := c.client(t, &traffic.writer.lost)
	traffic.writing.Go(func() { traffic.writer.run(ctx, t, client, stop) })
	traffic.writing.Go(func() { traffic.asker.run(ctx, t, c, stop) })
	return traffic
}

// awaitProgress returns when the writer, the new clients and each watch have got on by the same measure.
func (f *traffic) awaitProgress(ctx context.Context, t *testing.T, what string) {
	t.Helper()
	type goal struct {
		pace *pace
		at   int
	}
	goals := []goal{
		{&f.writer.pace, f.writer.successes() + steadyWrites},
		{&f.asker.pace, f.asker.successes() + steadyWrites/2},
	}
	for _, watcher := range f.watchers {
		goals = append(goals, goal{&watcher.pace, watcher.successes() + steadyWrites})
	}
	lab.Await(t, ctx, what, func() bool {
		for _, goal := range goals {
			if goal.pace.successes() < goal.at {
				return false
			}
		}
		return true
	})
}

// endWriting stops the writer and the new clients, and returns when both have ended.
func (f *traffic) endWriting() {
	f.stopWriting()
	f.writing.Wait()
}

// end stops everything, and returns when all have ended.
func (f *traffic) end() {
	f.endWriting()
	f.stopWatching()
	f.watching.Wait()
}

// cut is the number of watches that lost their connection.
func (f *traffic) cut() int {
	count := 0
	for _, watcher := range f.watchers {
		if watcher.lost.Load() > 0 {
			count++
		}
	}
	return count
}

// String is what each kind of client noticed.
func (f *traffic) String() string {
	var listed int
	var longest time.Duration
	for _, watcher := range f.watchers {
		if watcher.lists.Load() > 1 {
			listed++
		}
		longest = max(longest, watcher.longestPause())
	}
	return fmt.Sprintf(
		"watches: %d of %d lost their connection, %d had to list again, longest silence %v\n"+
			"writes: %d acknowledged, longest pause %v, got over: %s\n"+
			"new connections: %d answered, longest pause %v, got over: %s",
		f.cut(), len(f.watchers), listed, longest,
		f.writer.successes(), f.writer.longestPause(), &f.writer.failures,
		f.asker.successes(), f.asker.longestPause(), &f.asker.failures)
}
