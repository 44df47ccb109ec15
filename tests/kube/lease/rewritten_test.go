package lease

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"vipd/tests/kube/lab"
)

// rewriting is what somebody with rights on the Lease does to it, as a merge patch; without one it is deleted.
type rewriting struct {
	name, patch string
	// blocks: nobody may lead until the Lease is deleted, since whom it names may be there.
	blocks bool
}

// rewritings are told who holds the Lease, and who else could.
func rewritings(holder, other string) []rewriting {
	spec := func(fields string) string { return `{"spec":{` + fields + `}}` }
	return []rewriting{
		{name: "another node's name", patch: spec(fmt.Sprintf(`"holderIdentity":%q`, other))},
		{name: "another node's name, of now", patch: spec(fmt.Sprintf(`"holderIdentity":%q,"renewTime":%q`, other, time.Now().UTC().Format(metav1.RFC3339Micro)))},
		{name: "nobody's name", patch: spec(`"holderIdentity":"mallory"`)},
		{name: "an empty holder", patch: spec(`"holderIdentity":""`)},
		{name: "no holder", patch: spec(`"holderIdentity":null`)},
		{name: "no content", patch: `{"spec":null}`},
		{name: "a day for the holder", patch: spec(fmt.Sprintf(`"holderIdentity":%q,"leaseDurationSeconds":86400`, holder))},
		{name: "a day for nobody", patch: spec(`"holderIdentity":"mallory","leaseDurationSeconds":86400`), blocks: true},
		{name: "renewed in a hundred years", patch: spec(`"renewTime":"2126-01-01T00:00:00.000000Z"`)},
		{name: "renewed in 1970", patch: spec(`"renewTime":"1970-01-01T00:00:00.000000Z"`)},
		{name: "the last of all transitions", patch: spec(`"leaseTransitions":2147483647`)},
		{name: "a hundred thousand letters in the owner's note", patch: fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, ownerNote, strings.Repeat("x", 100_000))},
		{name: "deleted", patch: ""},
	}
}

// Whoever may write the Lease decides who leads; that never makes two owners, and when he stops one node leads again by itself.
func TestALeaseThatSomebodyRewritesMakesNoTwoOwnersAndHasOneAgain(t *testing.T) {
	skipWithoutVipd(t)
	c := open(t)
	for _, node := range lab.Nodes {
		c.install(t, node, quick.ofVipd())
	}
	for turn := range rewritings("", "") {
		holder := c.awaitHolder(t, "")
		other := lab.Nodes[0]
		if other == holder {
			other = lab.Nodes[1]
		}
		one := rewritings(holder, other)[turn]
		before := c.now(t)
		c.rewrite(t, one)
		// What comes of it may come with the next renewal, or when a lease has run out.
		pause(quick.lasts + quick.retry)
		if one.blocks {
			if holders := c.Holders(t); len(holders) > 0 {
				t.Errorf("%s: %q have the address, although the Lease says that somebody else leads for a day", one.name, holders)
			}
			c.rewrite(t, rewriting{name: "deletion of what blocks"})
		}
		next := c.awaitHolder(t, "")
		c.judge(t)
		c.assertRunning(t)
		none := longestGap(c.stays(t), before, c.now(t))
		t.Logf("%s: %s → %s, nobody held the address for %v at most", one.name, holder, next, none.Round(time.Millisecond))
	}
}

// rewrite does it through one node's apiserver.
func (c *cluster) rewrite(t *testing.T, one rewriting) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), lab.RecoverWithin)
	defer cancel()
	leases := c.leases(lab.Nodes[0])
	var err error
	if one.patch == "" {
		err = leases.Delete(ctx, leaseName, metav1.DeleteOptions{})
	} else {
		_, err = leases.Patch(ctx, leaseName, types.MergePatchType, []byte(one.patch), metav1.PatchOptions{})
	}
	// What the API itself refuses comes to nobody.
	if apierrors.IsInvalid(err) {
		t.Logf("%s: %v", one.name, err)
	} else if err != nil {
		t.Fatalf("%s: %v", one.name, err)
	}
}
