// Command participant takes part in an election by Lease with client-go's own code, and has the virtual IP while it leads: what
// kube-vip is at heart. It stands beside vipd in the tests, so that both are known to keep to one another's rules.
//
// By client-go's rules a holder may lead until the start of its last renewal that was granted, plus the renew deadline. Each such
// period goes to a journal, one JSON object a line, in nanoseconds of CLOCK_MONOTONIC, which all processes of a machine share:
//
//	{"event":"leads","from_ns":…,"until_ns":…}   the address may be here from then until then; a renewal is a line of its own
//	{"event":"ends","ns":…}                      the address has been taken off: before a release, or at the deadline
//	{"event":"guarded","ns":…}                   client-go was about to release a Lease that another holds, and was kept from it
//
// On SIGTERM or SIGINT it takes the address off, then releases the Lease, then ends. Like kube-vip's, its address outlives a
// SIGKILL: whoever kills it must remove what it left.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordination "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// settings are the command line.
type settings struct {
	kubeconfig, server        string
	identity, lease           string
	lasts, renewWithin, retry time.Duration
	network, addresses        string
	journal                   string
}

func main() {
	var set settings
	flag.StringVar(&set.kubeconfig, "kubeconfig", "", "whose credentials to use")
	flag.StringVar(&set.server, "server", "", "the apiserver to ask, instead of the kubeconfig's")
	flag.StringVar(&set.identity, "identity", "", "the holder identity to write: the node's name, in lower case")
	flag.StringVar(&set.lease, "lease", "kube-system/plndr-cp-lock", "the Lease, as NAMESPACE/NAME")
	flag.DurationVar(&set.lasts, "lease-duration", 15*time.Second, "how long others wait from the last change")
	flag.DurationVar(&set.renewWithin, "renew-deadline", 10*time.Second, "how long to lead without a renewal")
	flag.DurationVar(&set.retry, "retry-period", 2*time.Second, "the time between two renewals")
	flag.StringVar(&set.network, "interface", "", "the interface for the addresses")
	flag.StringVar(&set.addresses, "addresses", "", "the virtual addresses, as IP/PREFIX, separated by commas")
	flag.StringVar(&set.journal, "journal", "", "the file to append periods to")
	flag.Parse()
	if err := run(set); err != nil {
		fmt.Fprintln(os.Stderr, "participant:", err)
		os.Exit(1)
	}
}

// run takes part until a signal asks for the end.
func run(set settings) error {
	namespace, name, found := strings.Cut(set.lease, "/")
	if !found || set.identity == "" || set.network == "" || set.addresses == "" || set.journal == "" {
		return fmt.Errorf("needs -identity, -interface, -addresses, -journal, and -lease as NAMESPACE/NAME")
	}
	config, err := clientcmd.BuildConfigFromFlags("", set.kubeconfig)
	if err != nil {
		return err
	}
	if set.server != "" {
		config.Host = set.server
	}
	config.UserAgent = fmt.Sprintf("participant (%s)", set.identity)
	// A renewal that takes longer than this comes too late.
	config.Timeout = set.renewWithin
	config.QPS = -1 // the election bounds its own rate
	client, err := coordination.NewForConfig(config)
	if err != nil {
		return err
	}
	journal, err := openJournal(set.journal)
	if err != nil {
		return err
	}
	defer journal.close()

	holder := &holder{
		network:   set.network,
		addresses: strings.Split(set.addresses, ","),
		journal:   journal,
		grants:    make(chan grant),
		stop:      make(chan chan struct{}),
	}
	if err := holder.remove(); err != nil {
		return err // left by an earlier life, and not ours now
	}
	journal.write(entry{Event: "ends", Now: monotonic()})
	go holder.run()

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-signals
		holder.end()
		cancel() // client-go releases the Lease now
	}()

	for ctx.Err() == nil {
		lock := &watchedLock{
			Interface: &resourcelock.LeaseLock{
				LeaseMeta:  metav1.ObjectMeta{Namespace: namespace, Name: name},
				Client:     client,
				LockConfig: resourcelock.ResourceLockConfig{Identity: set.identity},
			},
			renewWithin: set.renewWithin,
			holder:      holder,
			journal:     journal,
		}
		elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
			Lock:            lock,
			LeaseDuration:   set.lasts,
			RenewDeadline:   set.renewWithin,
			RetryPeriod:     set.retry,
			ReleaseOnCancel: true,
			Name:            set.lease,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(context.Context) {},
				OnStoppedLeading: func() {},
			},
		})
		if err != nil {
			return err
		}
		// It ends when the lead is lost, after a renew deadline of trying, or when the context ends.
		elector.Run(ctx)
	}
	return nil
}
