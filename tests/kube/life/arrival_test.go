package life

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"vipd/tests/kube/cluster"
	"vipd/tests/kube/machine"
)

const (
	// guide is what is carried out, and guideSection where its part for static pods begins.
	guide, guideSection = "migrating-from-keepalived-haproxy.md", "\n## Setup B"
	// silentAtMost bounds the silence while the address goes from keepalived to vipd: a few seconds, where the machine has nothing else to do.
	silentAtMost = 30 * time.Second
)

// step is one of the guide's: on which host, and what.
type step struct{ host, commands string }

// It comes before all other tests, by the name of its file: they look at vipd.
func TestKeepalivedAndHaproxyInPodsGiveWayToVipd(t *testing.T) {
	if c.Born != cluster.Keepalived {
		t.Skip("SKIPPED: this cluster was born with vipd: see -born")
	}
	before, steps := readGuide(t)
	first := owner(t)
	others := slices.DeleteFunc(slices.Clone(c.ControlPlane), func(node *machine.Machine) bool { return node == first })
	hosts := map[string]*machine.Machine{"O": first, "F": others[0], "W": others[1]}
	for _, node := range c.ControlPlane {
		makeFiles(t, node, before)
	}
	w := startWatcher(t)
	endWatch := watchHolders(t)
	carryOut := func(steps []step, what string) {
		t.Helper()
		for _, step := range steps {
			began := time.Now()
			if _, err := hosts[step.host].Run(within(t, recoverWithin), "bash", "-euc", step.commands); err != nil {
				t.Fatal(err)
			}
			t.Logf("%s (%s), %.1f s:\n%s", step.host, hosts[step.host].Name, time.Since(began).Seconds(), step.commands)
		}
		report := w.row(t, what)
		if silence := time.Duration(report.Connects.Silent) * time.Millisecond; silence > silentAtMost {
			t.Errorf("%s: nobody answered for %v", what, silence)
		}
	}
	carryOut(steps[:3], "pods: two vipds that hear no majority")
	if now := owner(t); now != first {
		t.Fatalf("the address moved from %s to %s before its step", first.Name, now.Name)
	}
	carryOut(steps[3:5], "pods: from keepalived to vipd")
	if now := owner(t); now == first {
		t.Errorf("%s has the address, and no vipd yet", first.Name)
	}
	carryOut(steps[5:], "pods: the third vipd")
	if err := endWatch(); err != nil {
		t.Error(err)
	}
	awaitHealthy(t)
	giveTo(t, c.ControlPlane[0])
}

// giveTo hands the address to the preferred node, which would take it amid the next test. vipd refuses to for a moment after a start.
func giveTo(t *testing.T, preferred *machine.Machine) {
	t.Helper()
	err := cluster.Await(within(t, recoverWithin), "the address on "+preferred.Name, func(ctx context.Context) error {
		now := owner(t)
		if now == preferred {
			return nil
		}
		_, err := now.Run(ctx, "vipd", "step-down", "--to", preferred.Name)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// readGuide returns the commands that come first on each host, and the six steps.
func readGuide(t *testing.T) (before []string, steps []step) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(os.Getenv("VIPD_DOCS"), guide))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), guideSection)
	section, _, _ = strings.Cut(section, "\n## ")
	// The steps have a heading each, "**1. On F.**"; each has one block of commands.
	heading := regexp.MustCompile(`^\*\*\d\. On (.)\.\*\*`)
	host, block := "", []string(nil)
	inside := false
	for line := range strings.Lines(section) {
		found := heading.FindStringSubmatch(line)
		switch {
		case !inside && found != nil:
			host = found[1]
		case strings.HasPrefix(line, "```") && inside && host == "":
			before = append(before, block...)
		case strings.HasPrefix(line, "```") && inside:
			steps = append(steps, step{host, strings.Join(block, "\n")})
			host = ""
		case inside:
			block = append(block, strings.TrimSpace(line))
		}
		if strings.HasPrefix(line, "```") {
			inside, block = !inside, nil
		}
	}
	if len(before) == 0 || len(steps) != 6 {
		t.Fatalf("%s has another form than expected: %q, %q", guide, before, steps)
	}
	return before, steps
}

// makeFiles carries out what comes before the steps.
func makeFiles(t *testing.T, node *machine.Machine, commands []string) {
	t.Helper()
	for _, command := range commands {
		// The image that is tested is nowhere but in containerd.
		if strings.HasPrefix(command, "docker run --rm IMAGE sample manifest > /root/vipd.yaml") {
			manifest, err := c.Manifest(t.Context())
			if err == nil {
				err = node.Write("/root/vipd.yaml", manifest)
			}
			if err != nil {
				t.Fatal(err)
			}
			continue
		}
		command = strings.ReplaceAll(command, "NAME", node.Name)
		if strings.HasPrefix(command, "vipd check") && c.Timing != "" {
			command = fmt.Sprintf("echo 'timing: %s' >> %s\n%s", c.Timing, cluster.ConfigFile, command)
		}
		if _, err := node.Run(t.Context(), "bash", "-euc", command); err != nil {
			t.Fatal(err)
		}
	}
}

// watchHolders looks all the time at who has the address; what is returned ends that, and tells if several had it at once.
func watchHolders(t *testing.T) func() error {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	outcome := make(chan error, 1)
	go func() {
		var several error
		looks := 0
		for ; ctx.Err() == nil; looks++ {
			if all := holders(ctx); len(all) > 1 {
				several = fmt.Errorf("%d nodes had the address at once", len(all))
			}
		}
		if looks < 10 && several == nil {
			several = fmt.Errorf("only %d looks at who has the address", looks)
		}
		outcome <- several
	}()
	end := func() error {
		stop()
		return <-outcome
	}
	var ended bool
	t.Cleanup(func() {
		if !ended {
			_ = end()
		}
	})
	return func() error {
		if ended {
			return errors.New("ended twice")
		}
		ended = true
		return end()
	}
}
