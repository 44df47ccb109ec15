package restarts

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"vipd/tests/kube/lab"
)

const (
	// watchers is how many watches there are, each over a connection of its own.
	watchers = 36
	// keptClients is how many clients ask, and how many write, over kept connections.
	keptClients = 6
	// writeEvery and askEvery are the pauses of each of them, and askEvery of those who connect anew, too.
	writeEvery = 150 * time.Millisecond
	askEvery   = 100 * time.Millisecond
	// knockEvery is how often it is looked whether an apiserver still listens.
	knockEvery = 20 * time.Millisecond
	// steadyFor is for how long everything goes on before and after.
	steadyFor = 3 * time.Second
)

// An apiserver is told to end: it says that it isn't ready, and serves on for its shutdown delay; then it closes its port, and answers
// what it has begun. Before that no watch ends and nobody new comes, and no request fails at any time: a read or a write, over a new
// connection or a kept one, begun before the port was closed or after. What counts is what client-go gives its caller, who repeats
// nothing; over new connections, it is one attempt each.
func TestAnApiserverThatDrainsBreaksNoWatchBeforeItsEnd(t *testing.T) {
	c := open(t, "vipd-relaxed")
	ctx, cancel := context.WithTimeout(context.Background(), 2*endsWithin)
	defer cancel()
	slow := c.connectSlowWrites(ctx, t)
	faults := &journal{}
	watching := c.watchAll(ctx, t, faults)
	defer watching.end()
	asked := c.askAll(ctx, t, faults)
	defer asked.end()
	watching.awaitAll(ctx, t, "first events", 1)
	pause(steadyFor)

	victim := c.fullest(t)
	before := c.status(t)
	told := time.Now()
	c.Signal(t, victim, apiserver, "TERM")
	draining := c.awaitHealth(ctx, t, victim, "draining")
	known := time.Since(told)
	for place, write := range slow {
		write.begin(ctx, t, fmt.Sprintf("slow-%d-%d", place, told.UnixNano()))
	}
	end := c.awaitClosed(ctx, t, victim)
	pause(time.Second) // for long enough that whoever would break connections then has done so
	for _, write := range slow {
		if err := write.end(); err != nil {
			t.Errorf("a write that had begun before the port was closed failed: %v", err)
		}
	}
	after := c.status(t).of(t, c.nodes[victim])
	c.awaitEnd(t, victim)
	gone := time.Since(told)
	watching.awaitAll(ctx, t, "events after the end", watching.writer.last()+1)
	pause(steadyFor)
	asked.end()
	watching.stopWriting()
	watching.awaitAll(ctx, t, "last event", watching.writer.last())
	watching.end()
	c.Start(t, victim, apiserver)
	c.AwaitReady(t, victim)

	broken, resumed := 0, []time.Duration{}
	for _, watch := range watching.watches {
		for _, one := range watch.ends {
			if one.at.Before(end.listened) {
				t.Errorf("a watch ended %v before the apiserver closed its port: %s", end.listened.Sub(one.at), one.why)
			}
			broken++
			resumed = append(resumed, one.resumed.Sub(one.at))
		}
	}
	t.Logf("connections before: %s", connectionsOf(before))
	t.Logf("SIGTERM to the apiserver of %s: draining in vipd's status after %v, its port closed after %v, its process gone after %v",
		victim, known.Round(time.Millisecond), end.refused.Sub(told).Round(time.Millisecond), gone.Round(time.Millisecond))
	t.Logf("connections that went there while it drained: %d; open there: %d when that began, %d a second after the port was closed",
		after.Total-draining.Total, draining.Connections, after.Connections)
	t.Logf("watches that ended, all of them after the port was closed: %d of %d; from the end to the next event: %s", broken, watchers, summary(resumed))
	t.Logf("requests: %s; writes begun before the port was closed and ended after: %d", asked, len(slow))
	faults.report(t)
	if after.Total != draining.Total {
		t.Errorf("%d new connections went to an apiserver that was known to drain", after.Total-draining.Total)
	}
	if broken == 0 {
		t.Errorf("none of %d watches was with the apiserver that ended: nothing is known of those that are", watchers)
	}
}

// closing is when an apiserver was last seen to listen, and when it was first seen not to.
type closing struct{ listened, refused time.Time }

// awaitClosed returns when a node's apiserver doesn't listen any more.
func (c *cluster) awaitClosed(ctx context.Context, t *testing.T, node string) closing {
	t.Helper()
	limited, cancel := context.WithTimeout(ctx, endsWithin)
	defer cancel()
	look := time.NewTicker(knockEvery)
	defer look.Stop()
	for end := (closing{}); ; {
		begun := time.Now()
		connection, err := (&net.Dialer{}).DialContext(limited, "tcp", net.JoinHostPort(c.nodes[node].Address, apiserverPort))
		switch {
		case err == nil:
			end.listened = begun
			_ = connection.Close()
		case errors.Is(err, syscall.ECONNREFUSED):
			end.refused = time.Now()
			return end
		default:
			t.Fatalf("whether the apiserver of %s still listens can't be told: %v", node, err)
		}
		<-look.C
	}
}

// watching is a writer of one ConfigMap, and watches of it.
type watching struct {
	writer      *writer
	watches     []*watched
	stopWriting func()
	end         func()
}

// watchAll begins to write and to watch.
func (c *cluster) watchAll(ctx context.Context, t *testing.T, faults *journal) *watching {
	t.Helper()
	all := &watching{writer: &writer{name: "drain"}}
	client := c.client(t, faults)
	first := all.writer.create(t, client)
	var writing, watches sync.WaitGroup
	writingUntil, stopWriting := context.WithCancel(ctx)
	writing.Go(func() { all.writer.run(writingUntil, client, writeEvery, faults) })
	watchingUntil, stopWatching := context.WithCancel(ctx)
	for range watchers {
		watch := &watched{version: first.ResourceVersion}
		own := c.client(t, faults)
		all.watches = append(all.watches, watch)
		watches.Go(func() { watch.run(watchingUntil, own, all.writer.name, faults) })
	}
	all.stopWriting = func() { stopWriting(); writing.Wait() }
	all.end = func() { all.stopWriting(); stopWatching(); watches.Wait() }
	return all
}

// awaitAll returns when each watch has seen a number.
func (w *watching) awaitAll(ctx context.Context, t *testing.T, what string, number int) {
	t.Helper()
	lab.Await(t, ctx, what, func() bool {
		return !slices.ContainsFunc(w.watches, func(watch *watched) bool { return watch.seen.Load() < int64(number) })
	})
}

// ended is the end of a watch, and when the next event came.
type ended struct {
	at, resumed time.Time
	why         string
}

// watched is a watch of one ConfigMap that goes on from where it was each time that it has ended.
type watched struct {
	version string
	// seen is the last number that came.
	seen atomic.Int64
	// ends is to be read once it has ended for good.
	ends []ended
}

// run watches until the context ends. Each number has to come, and in order.
func (w *watched) run(ctx context.Context, client *kubernetes.Clientset, name string, faults *journal) {
	for ctx.Err() == nil {
		options := metav1.ListOptions{FieldSelector: "metadata.name=" + name, ResourceVersion: w.version}
		stream, err := client.CoreV1().ConfigMaps(namespace).Watch(ctx, options)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			faults.add("a watch could not begin: %v", err)
			return
		}
		why := w.follow(stream, faults)
		if ctx.Err() == nil {
			w.ends = append(w.ends, ended{at: time.Now(), why: why})
		}
	}
}

// follow takes what comes until the stream ends, and tells how it did.
func (w *watched) follow(stream watch.Interface, faults *journal) string {
	defer stream.Stop()
	for event := range stream.ResultChan() {
		if event.Type == watch.Error {
			return fmt.Sprintf("%+v", event.Object)
		}
		came, err := number(event.Object)
		if err != nil {
			faults.add("a watch brought %s: %v", event.Type, err)
			continue
		}
		if count := len(w.ends); count > 0 && w.ends[count-1].resumed.IsZero() {
			w.ends[count-1].resumed = time.Now()
		}
		if object, ok := event.Object.(metav1.Object); ok {
			w.version = object.GetResourceVersion()
		}
		if seen := int(w.seen.Load()); came != seen+1 {
			faults.add("a watch went from %d to %d", seen, came)
		}
		w.seen.Store(int64(came))
	}
	return "its stream ended"
}
