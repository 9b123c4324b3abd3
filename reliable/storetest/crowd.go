package storetest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

// Relays, handlers and operators at the same time, in goroutines, through two handles.
var crowdChecks = operationNeeded([]Check{
	{
		Name:  "relays, handlers and operators at once contradict nobody and leave nothing stuck",
		Needs: needs(Inspection, Compensation), run: crowdAtOnce,
	},
})

// crowd is what each of them was told.
type crowd struct {
	*T
	envs []reliable.Envelope

	mu        sync.Mutex
	confirmed map[reliable.ID]int // acks that were said to count
	done      map[reliable.ID]int // compensations that were said to count
	decided   map[reliable.ID]map[string]reliable.Action
}

func crowdAtOnce(t *T) {
	const count = 60
	t = t.within(crowdRounds * hanging / 10)
	c := &crowd{
		T: t, envs: numbered(count), confirmed: make(map[reliable.ID]int), done: make(map[reliable.ID]int),
		decided: make(map[reliable.ID]map[string]reliable.Action),
	}
	for i := range c.envs {
		if i%2 == 0 {
			c.envs[i].Key = number("key ", i%5)
		}
	}
	t.put(c.envs...)
	store := t.handles()
	t.together(6, func(i int) error {
		random := rand.New(rand.NewPCG(uint64(i), 0x63726f7764))
		for round := range crowdRounds {
			var err error
			switch i {
			case 0, 1:
				err = c.relay(store(i), random)
			case 2, 3:
				err = c.handler(store(i), random)
			default:
				err = c.operator(store(i), random, fmt.Sprintf("operator %d, round %d", i, round))
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	var open, all []reliable.Record
	defer func() {
		keys := make(map[string]bool)
		for _, r := range open {
			keys[r.Key] = r.Key != ""
		}
		for _, r := range all {
			if !keys[r.Key] && r.Status.Final() {
				continue
			}
			t.Logf("%s, key %q: %v, due in %v, waiting %v behind %q, held %v, leased by %q, fence %d, history %+v",
				r.ID, r.Key, r.Status, r.DueIn, r.Waiting, r.Behind, r.Held, r.LeasedBy, r.Fence, r.History)
		}
	}()
	t.until("all ends", func() bool {
		random := rand.New(rand.NewPCG(1, 1))
		for n := 1; n > 0; {
			n = len(t.claimAll(c))
		}
		require.NoError(t, c.handler(t.store, random))
		all = c.records()
		open = slices.DeleteFunc(slices.Clone(all), func(r reliable.Record) bool { return r.Status.Final() })
		return len(open) == 0
	})
	for _, r := range c.records() {
		c.agrees(r)
	}
}

// claimAll claims and acks what is left.
func (t *T) claimAll(c *crowd) []reliable.Attempt {
	t.Helper()
	attempts := t.claim(100)
	if len(attempts) > 0 {
		c.told(acks(attempts), t.settle(acks(attempts)...))
	}
	return attempts
}

func (c *crowd) records() []reliable.Record {
	c.Helper()
	records, err := able[reliable.Inspector](c.T).Lookup(c.Context(), idsOf(c.envs)...)
	require.NoError(c, err)
	return records
}

func (c *crowd) told(ss []reliable.Settlement, results []reliable.SettleResult) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, r := range results {
		if ss[i].To == reliable.Confirmed && (r == reliable.Applied || r == reliable.Late) {
			c.confirmed[ss[i].ID]++
		}
	}
}

func (c *crowd) relay(store reliable.Store, random *rand.Rand) error {
	attempts, err := store.Claim(c.Context(), request(8, long))
	if err != nil {
		return fmt.Errorf("claim: %w", err)
	}
	ss := make([]reliable.Settlement, len(attempts))
	for i, a := range attempts {
		ss[i] = []reliable.Settlement{ack(a), giveUp(a), giveUp(a), retry(a, 0), unknown(a)}[random.IntN(5)]
		ss[i].Release = ss[i].To == reliable.Failed && random.IntN(2) == 0
	}
	results, err := store.Settle(c.Context(), ss...)
	if err != nil {
		return fmt.Errorf("settle: %w", err)
	}
	c.told(ss, results)
	for i := range attempts { // the acks that come late, some of them
		if random.IntN(4) > 0 {
			continue
		}
		late := []reliable.Settlement{ack(attempts[i])}
		if results, err = store.Settle(c.Context(), late...); err != nil {
			return fmt.Errorf("settle late: %w", err)
		}
		c.told(late, results)
	}
	return nil
}

func (c *crowd) handler(store reliable.Store, random *rand.Rand) error {
	compensator, _ := reliable.Ability[reliable.Compensator](store)
	records, err := compensator.ClaimFailed(c.Context(), request(4, long), topic)
	if err != nil {
		return fmt.Errorf("claim failed: %w", err)
	}
	for _, r := range records {
		done := random.IntN(3) > 0
		result, err := compensator.SettleCompensation(c.Context(), compensation(r, done))
		if err != nil {
			return fmt.Errorf("settle compensation: %w", err)
		}
		if result != reliable.Applied {
			return fmt.Errorf("the compensation of %q, whose lease is not over, is %v", r.ID, result)
		}
		if done {
			c.mu.Lock()
			c.done[r.ID]++
			c.mu.Unlock()
		}
	}
	return nil
}

func (c *crowd) operator(store reliable.Store, random *rand.Rand, why string) error {
	operator, _ := reliable.Ability[reliable.Operator](store)
	action := []reliable.Action{reliable.Requeue, reliable.Requeue, reliable.Compensate, reliable.Discard}[random.IntN(4)]
	var ids []reliable.ID
	for range 10 {
		ids = append(ids, c.envs[random.IntN(len(c.envs))].ID)
	}
	results, err := operator.Decide(c.Context(), reliable.Decision{Action: action, IDs: ids, Who: "ann", Why: why})
	if err != nil {
		return fmt.Errorf("decide: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range results {
		if r.Verdict != reliable.Decided {
			continue
		}
		if c.decided[r.ID] == nil {
			c.decided[r.ID] = make(map[string]reliable.Action)
		}
		c.decided[r.ID][why] = action
	}
	return nil
}

// agrees demands that an envelope's end and history are what everybody was told.
func (c *crowd) agrees(r reliable.Record) {
	c.Helper()
	kept := decisionsOf(r)
	require.Len(c, kept, len(c.decided[r.ID]), "decisions about %q", r.ID)
	compensated := c.done[r.ID]
	before := reliable.Action(0)
	for _, d := range kept {
		action, told := c.decided[r.ID][d.Reason]
		require.True(c, told, "the decision %q about %q was made", d.Reason, r.ID)
		require.Equal(c, action, d.Action)
		require.Equal(c, "ann", d.By)
		switch before {
		case reliable.Discard:
			require.Equal(c, reliable.Requeue, d.Action, "what was discarded, %q, can be requeued only", r.ID)
		case reliable.Compensate:
			require.Fail(c, "decided about what was compensated", "%q", r.ID)
		}
		before = d.Action
		if d.Action == reliable.Compensate {
			compensated++
		}
	}
	require.LessOrEqual(c, c.confirmed[r.ID], 1, "acks of %q that counted", r.ID)
	require.LessOrEqual(c, compensated, 1, "compensations of %q that counted", r.ID)
	require.Equal(c, c.confirmed[r.ID] == 1, r.Status == reliable.Confirmed, "%q is confirmed", r.ID)
	require.Equal(c, compensated == 1, r.Status == reliable.Compensated, "%q is compensated", r.ID)
	require.Equal(c, before == reliable.Discard, r.Status == reliable.Discarded, "%q is discarded", r.ID)
}
