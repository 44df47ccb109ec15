package restarts

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"vipd/tests/kube/attempt"
)

// faultsMax is how many faults are told; that there were more is told, too.
const faultsMax = 20

// journal collects what went wrong, each with its time.
type journal struct {
	mutex  sync.Mutex
	faults []string
	count  int
}

func (j *journal) add(format string, values ...any) {
	j.mutex.Lock()
	defer j.mutex.Unlock()
	j.count++
	if len(j.faults) < faultsMax {
		j.faults = append(j.faults, time.Now().Format("15:04:05.000 ")+fmt.Sprintf(format, values...))
	}
}

// report fails the test for each fault.
func (j *journal) report(t *testing.T) {
	t.Helper()
	j.mutex.Lock()
	defer j.mutex.Unlock()
	for _, fault := range j.faults {
		t.Error(fault)
	}
	if j.count > len(j.faults) {
		t.Errorf("… and %d faults more", j.count-len(j.faults))
	}
}

// writer gives one ConfigMap ever higher numbers.
type writer struct {
	name string

	mutex sync.Mutex
	// begun is when the write of each number began, at its place.
	begun []time.Time
}

// create makes the ConfigMap, with the number 0.
func (w *writer) create(t *testing.T, client *kubernetes.Clientset) *corev1.ConfigMap {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), attemptWithin)
	defer cancel()
	// A lab in which this test has run before has another's.
	w.name = fmt.Sprintf("%s-%d", w.name, time.Now().UnixNano())
	w.begun = []time.Time{time.Now()}
	made, err := client.CoreV1().ConfigMaps(namespace).Create(ctx, w.object(0), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func (w *writer) object(number int) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: w.name}, Data: map[string]string{"number": strconv.Itoa(number)}}
}

// number reads the number of an object that a watch has brought.
func number(object any) (int, error) {
	configMap, ok := object.(*corev1.ConfigMap)
	if !ok {
		return 0, fmt.Errorf("a %T came", object)
	}
	return strconv.Atoi(configMap.Data["number"])
}

// run writes until the context ends. What client-go itself doesn't get over is a fault.
func (w *writer) run(ctx context.Context, client *kubernetes.Clientset, every time.Duration, faults *journal) {
	repeat(ctx, every, func() {
		w.mutex.Lock()
		next := len(w.begun)
		w.begun = append(w.begun, time.Now())
		w.mutex.Unlock()
		// Under a context of its own: the last write is not cut off.
		limited, cancel := context.WithTimeout(context.Background(), attemptWithin)
		defer cancel()
		if _, err := client.CoreV1().ConfigMaps(namespace).Update(limited, w.object(next), metav1.UpdateOptions{}); err != nil {
			faults.add("write %d to %s failed: %v", next, w.name, err)
		}
	})
}

// last is the number that was written last, or is being written.
func (w *writer) last() int {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return len(w.begun) - 1
}

// written is when the write of a number began.
func (w *writer) written(number int) time.Time {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return w.begun[number]
}

// repeat does something each period until the context ends, one after the other.
func repeat(ctx context.Context, every time.Duration, do func()) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			do()
		case <-ctx.Done():
			return
		}
	}
}

// requests are short ones, all the time.
type requests struct {
	fresh, reads, writes atomic.Int64
	// longest is what one of them took, in nanoseconds.
	longest atomic.Int64
	end     func()
}

// askAll begins to ask and to write: over a new connection each, and over kept ones.
func (c *cluster) askAll(ctx context.Context, t *testing.T, faults *journal) *requests {
	t.Helper()
	r := &requests{}
	own, err := rest.TLSConfigFor(c.config)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	until, stop := context.WithCancel(ctx)
	begin := func(count *atomic.Int64, every time.Duration, what string, request func(context.Context) error) {
		all.Go(func() {
			repeat(until, every, func() {
				begun := time.Now()
				limited, cancel := context.WithTimeout(context.Background(), attemptWithin)
				defer cancel()
				if err := request(limited); err != nil {
					faults.add("%s failed after %v: %v", what, time.Since(begun), err)
				}
				count.Add(1)
				for took := int64(time.Since(begun)); ; {
					longest := r.longest.Load()
					if took <= longest || r.longest.CompareAndSwap(longest, took) {
						return
					}
				}
			})
		})
	}
	begin(&r.fresh, askEvery, "a request over a new connection", func(ctx context.Context) error {
		answer, err := attempt.Do(ctx, attemptWithin, own, http.MethodGet, c.config.Host+"/api/v1/namespaces/"+namespace, "")
		if err == nil && answer.Status != http.StatusOK {
			err = fmt.Errorf("HTTP %d: %.200s", answer.Status, answer.Body)
		}
		return err
	})
	for range keptClients {
		reader, changer := c.client(t, faults), c.client(t, faults)
		begin(&r.reads, askEvery, "a read", func(ctx context.Context) error {
			_, err := reader.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
			return err
		})
		object := &writer{name: "kept"}
		object.create(t, changer)
		begin(&r.writes, writeEvery, "a write", func(ctx context.Context) error {
			_, err := changer.CoreV1().ConfigMaps(namespace).Update(ctx, object.object(time.Now().Nanosecond()), metav1.UpdateOptions{})
			return err
		})
	}
	r.end = func() { stop(); all.Wait() }
	return r
}

func (r *requests) String() string {
	return fmt.Sprintf("%d over new connections, %d reads and %d writes over kept ones; the longest took %v",
		r.fresh.Load(), r.reads.Load(), r.writes.Load(), time.Duration(r.longest.Load()).Round(time.Millisecond))
}

// summary is the median and the maximum.
func summary(durations []time.Duration) string {
	if len(durations) == 0 {
		return "none"
	}
	slices.Sort(durations)
	return fmt.Sprintf("median %v, longest %v", durations[len(durations)/2].Round(time.Millisecond), durations[len(durations)-1].Round(time.Millisecond))
}

// pause waits where nothing but time is to pass.
func pause(duration time.Duration) { <-time.After(duration) }
