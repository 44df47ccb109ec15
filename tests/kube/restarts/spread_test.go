package restarts

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"vipd/tests/kube/lab"
)

const (
	// informers is how many there are, each with a connection of its own.
	informers = 200
	// changeEvery is the pause between two changes that all of them hear of: none of their connections is ever silent for long.
	changeEvery = 250 * time.Millisecond
	// beatEvery is the pause between two writes over each of these connections, as a kubelet renews its Lease, and beatAfter how much
	// later each begins than the one before.
	beatEvery = 10 * time.Second
	beatAfter = beatEvery / informers
	// evenWithin is how soon after the last restart connections have to be spread evenly, and lookEvery how often it is looked.
	evenWithin = time.Minute
	lookEvery  = 250 * time.Millisecond
	// unevenMax is by how much of its share an apiserver may have more or less, in per cent.
	unevenMax = 20
	// slack is how much later an event may come than a reconnect explains: two cores carry an apiserver that starts, two that serve, and
	// 200 informers.
	slack = 3 * time.Second
)

// One apiserver after the other is restarted, as for an upgrade, while each of 200 clients informs itself and writes now and then. Where
// vipd is told to rebalance, each apiserver has its share of them soon after the last restart; no informer is behind for longer than it
// takes to connect anew, and no write fails but, at worst, one in fifty moves, which its client began as its connection was closed.
func TestInformersAreSpreadEvenlyAfterEachApiserverWasRestarted(t *testing.T) {
	c := open(t, "vipd-relaxed-rebalance")
	ctx, cancel := context.WithCancel(context.Background())
	faults := &journal{}
	client := c.client(t, faults)
	changes := &writer{name: "spread"}
	changes.create(t, client)
	crossed := &journal{}
	all, beats, running := c.informAll(ctx, t, changes, faults, crossed)
	changing, stopChanging := context.WithCancel(ctx)
	running.Go(func() { changes.run(changing, client, changeEvery, faults) })
	defer running.Wait()
	defer cancel()
	defer stopChanging()
	awaitAll(ctx, t, all, "first events", 1)
	t.Logf("connections: %s", connectionsOf(c.status(t)))

	for _, node := range lab.Nodes {
		c.restart(t, node)
	}
	restarted := time.Now()
	status := c.status(t)
	for !isEven(status) && time.Since(restarted) < evenWithin {
		pause(lookEvery)
		status = c.status(t)
	}
	took := time.Since(restarted)
	t.Logf("%v after the last restart: %s; %d connections were moved", took.Round(time.Millisecond), connectionsOf(status), status.Rebalanced)
	if !isEven(status) {
		t.Errorf("%v after the last restart the connections are not within %d %% of even", took.Round(time.Second), unevenMax)
	}
	pause(steadyFor)
	if after := c.status(t); isEven(status) && !isEven(after) {
		t.Errorf("they were spread evenly, and are not any more: %s", connectionsOf(after))
	}
	stopChanging()
	awaitAll(ctx, t, all, "last event", changes.last())
	cancel()
	running.Wait()

	var reconnects []time.Duration
	var delays delays
	lists, written := 0, 0
	for place, informer := range all {
		for _, gap := range informer.gaps {
			reconnects = append(reconnects, gap.resumed.Sub(gap.at))
		}
		own := informer.delays()
		if own.beyond > slack {
			t.Errorf("informer %d was behind by %v more than it took to connect anew", place, own.beyond)
		}
		delays.beyond, delays.most = max(delays.beyond, own.beyond), max(delays.most, own.most)
		lists += informer.lists
		written += beats[place].last()
	}
	t.Logf("%d changes to each of %d informers, which wrote %d times; times that everything was listed: %d", changes.last(), informers, written, lists)
	t.Logf("reconnects: %d; from the end of a watch to the next event: %s", len(reconnects), summary(reconnects))
	t.Logf("behind by at most %v, and by at most %v more than an own reconnect explains", delays.most.Round(time.Millisecond), delays.beyond.Round(time.Millisecond))
	t.Logf("writes of informers that failed: %d", crossed.count)
	faults.report(t)
	// What a client begins to write in the instant in which its connection is closed is lost, whoever closes it.
	if crossed.count*50 > int(status.Rebalanced) {
		crossed.report(t)
	}
	if len(reconnects) == 0 {
		t.Error("no watch ended: nothing is known of informers that connect anew")
	}
}

// informAll begins to inform, and to write over the same connections; failed hears of writes that did.
func (c *cluster) informAll(ctx context.Context, t *testing.T, changes *writer, faults, failed *journal) ([]*informer, []*writer, *sync.WaitGroup) {
	t.Helper()
	running := &sync.WaitGroup{}
	all, beats := make([]*informer, informers), make([]*writer, informers)
	for place := range all {
		all[place], beats[place] = &informer{}, &writer{name: "beat"}
		client := c.client(t, faults)
		beats[place].create(t, client)
		running.Go(func() { all[place].run(ctx, client, changes, faults) })
		running.Go(func() {
			select {
			case <-time.After(time.Duration(place) * beatAfter):
				beats[place].run(ctx, client, beatEvery, failed)
			case <-ctx.Done():
			}
		})
	}
	return all, beats, running
}

// awaitAll returns when each informer has a number.
func awaitAll(ctx context.Context, t *testing.T, all []*informer, what string, number int) {
	t.Helper()
	limited, cancel := context.WithTimeout(ctx, lab.RecoverWithin)
	defer cancel()
	lab.Await(t, limited, what, func() bool {
		return !slices.ContainsFunc(all, func(one *informer) bool { return one.last() < number })
	})
}

// restart has a node's apiserver end, in its own time, and starts it again.
func (c *cluster) restart(t *testing.T, node string) {
	t.Helper()
	begun := time.Now()
	c.Signal(t, node, apiserver, "TERM")
	c.awaitEnd(t, node)
	ended := time.Now()
	c.Start(t, node, apiserver)
	c.AwaitReady(t, node)
	t.Logf("the apiserver of %s ended after %v and was ready %v later; connections: %s", node,
		ended.Sub(begun).Round(time.Millisecond), time.Since(ended).Round(time.Millisecond), connectionsOf(c.status(t)))
}

// isEven says whether each apiserver's connections are near enough to its share.
func isEven(status balancer) bool {
	total := 0
	for _, one := range status.Backends {
		total += one.Connections
	}
	return !slices.ContainsFunc(status.Backends, func(one backend) bool {
		off := one.Connections*len(status.Backends) - total
		return max(off, -off)*100 > unevenMax*total
	})
}

// The check that the test relies on can fail.
func TestWhatIsUnevenIsFound(t *testing.T) {
	for want, counts := range map[bool][]int{true: {80, 54, 67}, false: {82, 60, 59}} {
		var status balancer
		for _, count := range counts {
			status.Backends = append(status.Backends, backend{Connections: count})
		}
		if isEven(status) != want {
			t.Errorf("%v: even is %v, want %v", counts, !want, want)
		}
	}
}
