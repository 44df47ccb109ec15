package lease

import (
	"context"
	"fmt"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"vipd/tests/kube/lab"
)

func TestTheLeaseIsWrittenAsClientGoWritesIt(t *testing.T) {
	for _, system := range []string{quick.ofClientGo(), quick.ofVipd()} {
		t.Run(system, func(t *testing.T) {
			c := open(t)
			ctx, cancel := context.WithTimeout(context.Background(), lab.RecoverWithin)
			defer cancel()
			versions := c.watch(ctx, t)
			for _, node := range lab.Nodes {
				c.install(t, node, system)
			}
			first := c.awaitHolder(t, "")
			c.assertRunning(t)
			pause(3 * quick.lasts) // some renewals
			c.Stop(t, first, process(system))
			second := c.awaitHolder(t, first)
			pause(3 * quick.lasts)
			c.Stop(t, second, process(system))
			c.awaitHolder(t, second)
			cancel()

			var history []coordinationv1.LeaseSpec
			for version := range versions {
				history = append(history, version)
			}
			for _, fault := range faultsOf(history, int32(quick.seconds)) {
				t.Error(fault)
			}
			counted := map[string]int{}
			for i, spec := range history {
				counted[kindOf(history, i)]++
				if kindOf(history, i) != "renewal" {
					t.Logf("%s: holder %q, %d s, transitions %d, acquired %v, renewed %v", kindOf(history, i),
						*spec.HolderIdentity, *spec.LeaseDurationSeconds, *spec.LeaseTransitions, spec.AcquireTime.Time, spec.RenewTime.Time)
				}
			}
			t.Logf("%d versions of the Lease: %v", len(history), counted)
			for kind, least := range map[string]int{"creation": 1, "change of holder": 2, "release": 2, "renewal": 10} {
				if counted[kind] < least {
					t.Errorf("%d times %s, want at least %d: nothing is known of what was not seen", counted[kind], kind, least)
				}
			}
			c.judge(t)
		})
	}
}

// watch follows the Lease's versions until the context ends, and then closes the channel.
func (c *cluster) watch(ctx context.Context, t *testing.T) <-chan coordinationv1.LeaseSpec {
	t.Helper()
	watcher, err := c.leases(lab.Nodes[0]).Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + leaseName})
	if err != nil {
		t.Fatal(err)
	}
	// A test of half a minute makes some hundred versions.
	versions := make(chan coordinationv1.LeaseSpec, 10_000)
	go func() {
		defer close(versions)
		for event := range watcher.ResultChan() {
			if lease, ok := event.Object.(*coordinationv1.Lease); ok && event.Type != watch.Deleted {
				versions <- lease.Spec
			}
		}
	}()
	return versions
}

// kindOf says what happened between a version and the one before it.
func kindOf(history []coordinationv1.LeaseSpec, i int) string {
	holder := func(i int) string {
		if history[i].HolderIdentity == nil {
			return ""
		}
		return *history[i].HolderIdentity
	}
	switch {
	case i == 0:
		return "creation"
	case holder(i) == "":
		return "release"
	case holder(i) == holder(i-1):
		return "renewal"
	}
	return "change of holder"
}

// faultsOf are the deviations of a Lease's history from what client-go writes.
func faultsOf(history []coordinationv1.LeaseSpec, seconds int32) []string {
	var faults []string
	fine := 0
	for i, now := range history {
		fault := func(format string, arguments ...any) {
			faults = append(faults, fmt.Sprintf("version %d, a %s: ", i, kindOf(history, i))+fmt.Sprintf(format, arguments...))
		}
		if now.HolderIdentity == nil || now.LeaseDurationSeconds == nil || now.LeaseTransitions == nil || now.AcquireTime == nil || now.RenewTime == nil {
			fault("a field is missing: %+v", now)
			return faults
		}
		if now.RenewTime.Nanosecond()%int(time.Millisecond) != 0 {
			fine++
		}
		wanted := seconds
		if kindOf(history, i) == "release" {
			wanted = 1
		}
		if *now.LeaseDurationSeconds != wanted {
			fault("leaseDurationSeconds is %d, want %d", *now.LeaseDurationSeconds, wanted)
		}
		if i == 0 {
			if *now.LeaseTransitions != 0 {
				fault("leaseTransitions is %d, want 0", *now.LeaseTransitions)
			}
			continue
		}
		before := history[i-1]
		if !now.RenewTime.After(before.RenewTime.Time) {
			fault("renewTime went from %v to %v", before.RenewTime, now.RenewTime)
		}
		rise, kept := int32(0), true
		switch kindOf(history, i) {
		case "change of holder":
			rise, kept = 1, false
		case "release":
			kept = now.AcquireTime.Equal(before.AcquireTime) // client-go writes the time of the release
		}
		if *now.LeaseTransitions != *before.LeaseTransitions+rise {
			fault("leaseTransitions went from %d to %d", *before.LeaseTransitions, *now.LeaseTransitions)
		}
		if now.AcquireTime.Equal(before.AcquireTime) != kept {
			fault("acquireTime went from %v to %v", before.AcquireTime, now.AcquireTime)
		}
	}
	if len(history) > 0 && fine == 0 {
		faults = append(faults, "no renewTime of any version has microseconds")
	}
	return faults
}

// The check that the others rely on can fail.
func TestALeaseThatClientGoWouldNotWriteIsFound(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 678_901_000, time.UTC)
	spec := func(holder string, seconds, transitions int32, acquired, renewed int) coordinationv1.LeaseSpec {
		at := func(after int) *metav1.MicroTime {
			moment := metav1.NewMicroTime(start.Add(time.Duration(after) * time.Second))
			return &moment
		}
		return coordinationv1.LeaseSpec{HolderIdentity: &holder, LeaseDurationSeconds: &seconds, LeaseTransitions: &transitions, AcquireTime: at(acquired), RenewTime: at(renewed)}
	}
	good := func() []coordinationv1.LeaseSpec {
		return []coordinationv1.LeaseSpec{spec("a", 2, 0, 0, 0), spec("a", 2, 0, 0, 1), spec("", 1, 0, 2, 2), spec("b", 2, 1, 3, 3), spec("c", 2, 2, 6, 6)}
	}
	if faults := faultsOf(good(), 2); len(faults) != 0 {
		t.Errorf("a good history has faults: %q", faults)
	}
	for name, wrong := range map[string]coordinationv1.LeaseSpec{
		"a renewal that counts as a transition":     spec("a", 2, 1, 0, 1),
		"a renewal with a new acquireTime":          spec("a", 2, 0, 1, 1),
		"a renewal that renews nothing":             spec("a", 2, 0, 0, 0),
		"a renewal with a duration in milliseconds": spec("a", 2000, 0, 0, 1),
	} {
		history := append(good()[:1], wrong)
		if faults := faultsOf(history, 2); len(faults) == 0 {
			t.Errorf("%s is not found", name)
		}
	}
	for name, wrong := range map[string]coordinationv1.LeaseSpec{
		"a change of holder that is not counted":      spec("b", 2, 0, 3, 3),
		"a change of holder with an old acquireTime":  spec("b", 2, 1, 2, 3),
		"a release that keeps the lease for its time": spec("", 2, 0, 3, 3),
	} {
		history := append(good()[:3], wrong)
		if faults := faultsOf(history, 2); len(faults) == 0 {
			t.Errorf("%s is not found", name)
		}
	}
}
