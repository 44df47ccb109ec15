package life

import (
	"strconv"
	"strings"
	"testing"
)

// kept are the capabilities that docs/confinement.md names, by their numbers in capability.h: NET_BIND_SERVICE, NET_ADMIN, NET_RAW,
// IPC_LOCK and SYS_NICE.
const kept = 1<<10 | 1<<12 | 1<<13 | 1<<14 | 1<<23

const netRaw = 1 << 13

// In its Pod vipd has no more than it needs, and the threads that read what strangers send have next to nothing.
func TestVipdIsConfinedInItsPod(t *testing.T) {
	awaitHealthy(t)
	for _, node := range c.ControlPlane {
		text, err := node.Run(t.Context(), "bash", "-euc", "cat /proc/$(pgrep --exact --oldest vipd)/task/*/status")
		if err != nil {
			t.Fatal(err)
		}
		powerless := 0
		name := ""
		for line := range strings.Lines(text) {
			field, value, _ := strings.Cut(strings.TrimSpace(line), ":")
			value = strings.TrimSpace(value)
			switch field {
			case "Name":
				name = value
			case "NoNewPrivs":
				if value != "1" {
					t.Errorf("%s: %s may get new privileges", node.Name, name)
				}
			case "Seccomp":
				if value != "2" {
					t.Errorf("%s: %s has no filter of system calls", node.Name, name)
				}
			case "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb":
				set, err := strconv.ParseUint(value, 16, 64)
				if err != nil {
					t.Fatal(err)
				}
				if set&^kept != 0 {
					t.Errorf("%s: %s has %s %s", node.Name, name, field, value)
				}
				if field == "CapPrm" && set&^netRaw == 0 {
					powerless++
				}
			}
		}
		// That of the log, and the workers, which reset clients of an address that has left.
		if powerless < 2 {
			t.Errorf("%s: %d threads have few or no capabilities:\n%s", node.Name, powerless, text)
		}
	}
}
