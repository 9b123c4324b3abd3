package storetest_test

import (
	"context"
	"slices"

	"github.com/waybillmq/waybill/reliable"
)

// The helpers below break one step of a method and leave the rest sound.

// beforeEnqueue changes what is stored.
func (b *broken) beforeEnqueue(change func(req *enqueueRequest, e *envelope)) {
	b.enqueue = func(
		ctx context.Context, in reliable.Enqueuer, req enqueueRequest, envs []envelope,
	) ([]stored, error) {
		changed := append([]envelope(nil), envs...)
		for i := range changed {
			change(&req, &changed[i])
		}
		return in.Enqueue(ctx, req, changed...)
	}
}

// afterEnqueue changes what is said of what was stored.
func (b *broken) afterEnqueue(change func(e envelope, s *stored)) {
	b.enqueue = func(
		ctx context.Context, in reliable.Enqueuer, req enqueueRequest, envs []envelope,
	) ([]stored, error) {
		all, err := in.Enqueue(ctx, req, envs...)
		for i := range all {
			change(envs[i], &all[i])
		}
		return all, err
	}
}

// beforeClaim changes what is asked for, probes included.
func (b *broken) beforeClaim(change func(req *claimRequest)) {
	b.claim = func(ctx context.Context, req claimRequest) ([]attempt, error) {
		change(&req)
		return b.Store.Claim(ctx, req)
	}
	b.probe = func(ctx context.Context, topic string, req claimRequest) ([]attempt, error) {
		change(&req)
		return b.Store.Probe(ctx, topic, req)
	}
	b.claimFailed = func(ctx context.Context, req claimRequest, topics []string) ([]record, error) {
		change(&req)
		return b.Store.ClaimFailed(ctx, req, topics...)
	}
}

// afterClaim changes what was claimed or probed.
func (b *broken) afterClaim(change func(all []attempt) []attempt) {
	b.claim = func(ctx context.Context, req claimRequest) ([]attempt, error) {
		all, err := b.Store.Claim(ctx, req)
		return change(all), err
	}
	b.probe = func(ctx context.Context, topic string, req claimRequest) ([]attempt, error) {
		all, err := b.Store.Probe(ctx, topic, req)
		return change(all), err
	}
}

// eachClaimed changes each attempt that was claimed or probed.
func (b *broken) eachClaimed(change func(a *attempt)) {
	b.afterClaim(func(all []attempt) []attempt {
		for i := range all {
			change(&all[i])
		}
		return all
	})
}

// beforeSettle changes each settlement.
func (b *broken) beforeSettle(change func(s *settlement)) {
	b.settle = func(ctx context.Context, ss []settlement) ([]reliable.SettleResult, error) {
		changed := append([]settlement(nil), ss...)
		for i := range changed {
			change(&changed[i])
		}
		return b.Store.Settle(ctx, changed...)
	}
}

// insteadOfSettle records nothing of the settlements for which it has a result.
func (b *broken) insteadOfSettle(result func(s settlement) (reliable.SettleResult, bool)) {
	b.settle = func(ctx context.Context, ss []settlement) ([]reliable.SettleResult, error) {
		results := make([]reliable.SettleResult, len(ss))
		var kept []settlement
		var at []int
		for i, s := range ss {
			if r, instead := result(s); instead {
				results[i] = r
				continue
			}
			kept = append(kept, s)
			at = append(at, i)
		}
		sound, err := b.Store.Settle(ctx, kept...)
		if err != nil {
			return nil, err
		}
		for i, r := range sound {
			results[at[i]] = r
		}
		return results, nil
	}
}

// afterSettle changes each result.
func (b *broken) afterSettle(change func(s settlement, r *reliable.SettleResult)) {
	b.settle = func(ctx context.Context, ss []settlement) ([]reliable.SettleResult, error) {
		results, err := b.Store.Settle(ctx, ss...)
		for i := range results {
			change(ss[i], &results[i])
		}
		return results, err
	}
}

// eachRecord changes each record that was looked up or claimed for compensation.
func (b *broken) eachRecord(change func(r *record)) {
	apply := func(all []record, err error) ([]record, error) {
		for i := range all {
			change(&all[i])
		}
		return all, err
	}
	b.lookup = func(ctx context.Context, ids []reliable.ID) ([]record, error) {
		return apply(b.Store.Lookup(ctx, ids...))
	}
	b.claimFailed = func(ctx context.Context, req claimRequest, topics []string) ([]record, error) {
		return apply(b.Store.ClaimFailed(ctx, req, topics...))
	}
}

// beforeDecide changes what is decided.
func (b *broken) beforeDecide(change func(d *ruling)) {
	b.decide = func(ctx context.Context, d ruling) ([]verdict, error) {
		change(&d)
		return b.Store.Decide(ctx, d)
	}
}

// afterDecide changes what is said of each decision.
func (b *broken) afterDecide(change func(d ruling, v *verdict)) {
	b.decide = func(ctx context.Context, d ruling) ([]verdict, error) {
		all, err := b.Store.Decide(ctx, d)
		for i := range all {
			change(d, &all[i])
		}
		return all, err
	}
}

// beforeList changes what is asked for.
func (b *broken) beforeList(change func(req *listRequest)) {
	b.list = func(ctx context.Context, req listRequest) (reliable.Page, error) {
		change(&req)
		return b.Store.List(ctx, req)
	}
}

// listedLess leaves records out of every page.
func (b *broken) listedLess(out func(r record) bool) {
	b.list = func(ctx context.Context, req listRequest) (reliable.Page, error) {
		page, err := b.Store.List(ctx, req)
		page.Records = slices.DeleteFunc(page.Records, out)
		return page, err
	}
}

// listedAtOnce lists all of a status for which there is a reason to, in one page.
func (b *broken) listedAtOnce(matches func(r record, f reliable.Filter) bool) {
	b.list = func(_ context.Context, req listRequest) (reliable.Page, error) {
		var page reliable.Page
		for _, r := range b.Store.Records() {
			if r.Status == req.Status && matches(r, req.Filter) {
				page.Records = append(page.Records, r)
			}
		}
		return page, nil
	}
}

// row is what the sound store knows of an id.
func (b *broken) row(id reliable.ID) (record, bool) {
	all, err := b.Store.Lookup(context.Background(), id)
	if err != nil || len(all) == 0 {
		return record{}, false
	}
	return all[0], true
}
