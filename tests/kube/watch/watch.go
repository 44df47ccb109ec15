// Package watch is what the watcher on the worker reports.
package watch

// Stream is what happened to one way of looking at the cluster.
type Stream struct {
	// Silent is the longest time without a sign of life, in milliseconds.
	Silent float64
	// Failures counts what failed, by its reason: requests, or commands that ended.
	Failures map[string]int
}

// Report is one period.
type Report struct {
	// Settled says whether everything worked again at its end.
	Settled bool
	// Connects are new connections with a question that an apiserver answers by itself, Gets those with one that it has to ask etcd;
	// Informer is an informer's events, Watch and Logs are the lines of kubectl.
	Connects, Gets, Informer, Watch, Logs Stream
	// Created counts the objects whose creation was confirmed, Lost those of them that the informer never showed.
	Created, Lost int
}
