// Command watcher is a client of the cluster that never looks away: while things break, it asks two things over new connections
// every 20 ms, one that any live apiserver answers and one that takes etcd, has an informer, a `kubectl get --watch` and a `kubectl logs --follow`, and creates ten objects a second that the
// first two must see. It runs on the worker, through the virtual IP.
//
//	watcher POD      the pod, in the namespace default, whose log is followed
//
// A line on its standard input asks for the period since the last one. It is answered, in JSON, once everything works again, or
// after a while as it is.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"vipd/tests/kube/watch"
)

// settleWithin bounds the wait for everything to work again. client-go backs off for up to half a minute.
const settleWithin = 90 * time.Second

// kubeconfig is where kubeadm tells users to have it.
const kubeconfig = "/root/.kube/config"

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "watcher POD")
		os.Exit(64)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "watcher:", err)
		os.Exit(1)
	}
}

func run(pod string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	config.QPS = -1 // the rates are bounded here
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	w := &watching{
		connects: newStream(),
		gets:     newStream(),
		informed: newStream(),
		listed:   newStream(),
		logged:   newStream(),
		created:  map[string]time.Time{},
		seen:     map[string]bool{},
	}
	go w.ask(ctx, config, "/version", w.connects)
	go w.ask(ctx, config, "/api/v1/namespaces/default", w.gets)
	go w.create(ctx, config)
	go w.inform(ctx, client)
	go w.follow(ctx, w.listed, "get", "configmaps", "--namespace", namespace, "--watch-only", "--output", "name")
	go w.follow(ctx, w.logged, "logs", "--follow", "--tail", "1", "--namespace", "default", pod)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		text, err := json.Marshal(w.settle(ctx))
		if err != nil {
			return err
		}
		fmt.Println(string(text))
	}
	return nil
}

// settle waits until everything works, and takes the period that ends then.
func (w *watching) settle(ctx context.Context) watch.Report {
	ctx, cancel := context.WithTimeout(ctx, settleWithin)
	defer cancel()
	asked := time.Now()
	look := time.NewTicker(askEvery)
	defer look.Stop()
	for !w.works(asked) {
		select {
		case <-look.C:
		case <-ctx.Done():
			return w.report(false)
		}
	}
	return w.report(true)
}
