package engine

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/waybillmq/waybill/reliable"
)

func exact(base, limit time.Duration) Backoff { return Backoff{Base: base, Max: limit, Exact: true} }

func TestBackoff_doublesUpToItsLimit(t *testing.T) {
	b := exact(time.Second, 10*time.Second)
	for n, want := range map[int]time.Duration{
		0: time.Second, 1: time.Second, 2: 2 * time.Second, 3: 4 * time.Second, 4: 8 * time.Second, 5: 10 * time.Second, 1_000_000: 10 * time.Second,
	} {
		assert.Equal(t, want, b.Delay(n), "after %d failures", n)
	}
}

func TestBackoff_aBaseAboveTheLimitIsCut(t *testing.T) {
	assert.Equal(t, time.Second, exact(time.Minute, time.Second).Delay(1))
}

func TestBackoff_jitterTakesAtMostHalfAndNeverAdds(t *testing.T) {
	b := Backoff{Base: time.Second, Max: 8 * time.Second}
	seen := make(map[time.Duration]bool)
	for range 1000 {
		d := b.Delay(3)
		assert.GreaterOrEqual(t, d, 2*time.Second)
		assert.LessOrEqual(t, d, 4*time.Second)
		seen[d] = true
	}
	assert.Greater(t, len(seen), 900, "what failed together must not come back together")
}

func TestBackoff_theShortestDelaysHaveNoRoomForJitter(t *testing.T) {
	assert.Equal(t, time.Duration(1), Backoff{Base: 1, Max: 1}.Delay(1))
	assert.Equal(t, time.Duration(0), Backoff{}.Delay(5))
}

func TestPolicy_decidesByOutcomeBudgetAndDeadline(t *testing.T) {
	usual := Policy{MaxFailures: 3, MinFailing: time.Minute, Retry: exact(time.Second, time.Minute), Again: exact(100*time.Millisecond, time.Second)}
	classic := Policy{Classic: true, MaxFailures: 4, Retry: exact(5*time.Minute, 5*time.Minute), Again: exact(5*time.Minute, 5*time.Minute)}
	releasing := usual
	releasing.ReleaseFailed = true
	cause := errors.New("queue is full")

	for name, c := range map[string]struct {
		policy  Policy
		attempt reliable.Attempt
		outcome reliable.Outcome
		err     error
		since   time.Duration
		parked  bool
		want    reliable.Settlement
	}{
		"an ack confirms": {
			policy: usual, attempt: reliable.Attempt{Attempts: 1}, outcome: reliable.Acked,
			want: reliable.Settlement{To: reliable.Confirmed},
		},
		"an ack confirms after the deadline too": {
			policy: usual, attempt: reliable.Attempt{Envelope: reliable.Envelope{Deadline: 1}, Attempts: 1, Age: time.Hour}, outcome: reliable.Acked,
			want: reliable.Settlement{To: reliable.Confirmed},
		},
		"an ack with an error beside it leaves no reason": {
			policy: usual, attempt: reliable.Attempt{Attempts: 1}, outcome: reliable.Acked, err: cause,
			want: reliable.Settlement{To: reliable.Confirmed},
		},
		"a first nack is charged and tried again": {
			policy: usual, attempt: reliable.Attempt{Attempts: 1}, outcome: reliable.Nacked, err: cause,
			want: reliable.Settlement{To: reliable.Pending, Charge: true, Delay: time.Second, Reason: "queue is full"},
		},
		"a return is charged as a nack is": {
			policy: usual, attempt: reliable.Attempt{Attempts: 2, Failures: 1, FailingFor: time.Second}, outcome: reliable.Returned,
			want: reliable.Settlement{To: reliable.Pending, Charge: true, Delay: 2 * time.Second},
		},
		"a refusal of a held topic parks": {
			policy: usual, attempt: reliable.Attempt{Attempts: 1}, outcome: reliable.Nacked, parked: true,
			want: reliable.Settlement{To: reliable.Pending, Charge: true, Park: true, Delay: time.Second},
		},
		"the budget's count alone does not fail": {
			policy: usual, attempt: reliable.Attempt{Attempts: 9, Failures: 8, FailingFor: 59 * time.Second}, outcome: reliable.Nacked,
			want: reliable.Settlement{To: reliable.Pending, Charge: true, Delay: time.Minute},
		},
		"the budget's time alone does not fail": {
			policy: usual, attempt: reliable.Attempt{Attempts: 2, Failures: 1, FailingFor: time.Hour}, outcome: reliable.Nacked,
			want: reliable.Settlement{To: reliable.Pending, Charge: true, Delay: 2 * time.Second},
		},
		"count and time together fail": {
			policy: usual, attempt: reliable.Attempt{Attempts: 3, Failures: 2, FailingFor: 59 * time.Second}, since: time.Second, outcome: reliable.Nacked, err: cause,
			want: reliable.Settlement{To: reliable.Failed, Charge: true, Reason: "refused 3 times over 1m0s: queue is full"},
		},
		"a first refusal has been failing for no time, however long it took": {
			policy: Policy{MaxFailures: 1, MinFailing: time.Second, Retry: exact(time.Second, time.Minute)}, attempt: reliable.Attempt{Attempts: 1}, since: time.Hour, outcome: reliable.Nacked,
			want: reliable.Settlement{To: reliable.Pending, Charge: true, Delay: time.Second},
		},
		"a rejection fails at once": {
			policy: usual, attempt: reliable.Attempt{Attempts: 1}, outcome: reliable.Rejected, err: errors.New("too large"),
			want: reliable.Settlement{To: reliable.Failed, Charge: true, Reason: "this message can never be published: too large"},
		},
		"an unknown outcome is not charged": {
			policy: usual, attempt: reliable.Attempt{Attempts: 3, Failures: 1}, outcome: reliable.Unknown,
			want: reliable.Settlement{To: reliable.Pending, Delay: 200 * time.Millisecond},
		},
		"unknown outcomes never fail, however many": {
			policy: usual, attempt: reliable.Attempt{Attempts: 1000, Failures: 2, FailingFor: time.Hour}, outcome: reliable.Unknown,
			want: reliable.Settlement{To: reliable.Pending, Delay: time.Second},
		},
		"an unknown outcome on a held topic is tried again by itself": {
			policy: usual, attempt: reliable.Attempt{Attempts: 1}, outcome: reliable.Unknown, parked: true,
			want: reliable.Settlement{To: reliable.Pending, Delay: 100 * time.Millisecond},
		},
		"after the deadline an unknown outcome fails": {
			policy: usual, attempt: reliable.Attempt{Envelope: reliable.Envelope{Deadline: time.Minute}, Attempts: 1, Age: 50 * time.Second}, since: 10 * time.Second, outcome: reliable.Unknown,
			want: reliable.Settlement{To: reliable.Failed, Reason: "the deadline of 1m0s passed"},
		},
		"before the deadline it does not": {
			policy: usual, attempt: reliable.Attempt{Envelope: reliable.Envelope{Deadline: time.Minute}, Attempts: 1, Age: 50 * time.Second}, since: 9 * time.Second, outcome: reliable.Unknown,
			want: reliable.Settlement{To: reliable.Pending, Delay: 100 * time.Millisecond},
		},
		"a failed head lets its key go on if asked to": {
			policy: releasing, attempt: reliable.Attempt{Attempts: 1}, outcome: reliable.Rejected,
			want: reliable.Settlement{To: reliable.Failed, Charge: true, Release: true, Reason: "this message can never be published"},
		},
		"classic charges unknown outcomes": {
			policy: classic, attempt: reliable.Attempt{Attempts: 3, Failures: 2}, outcome: reliable.Unknown,
			want: reliable.Settlement{To: reliable.Pending, Charge: true, Delay: 5 * time.Minute},
		},
		"classic fails with its last attempt": {
			policy: classic, attempt: reliable.Attempt{Attempts: 4, Failures: 3}, outcome: reliable.Unknown, err: cause,
			want: reliable.Settlement{To: reliable.Failed, Charge: true, Reason: "attempt 4 of 4: queue is full"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			c.attempt.ID, c.attempt.Topic, c.attempt.Key, c.attempt.Fence = "id", "topic", "key", 7
			c.want.ID, c.want.Topic, c.want.Key, c.want.Fence, c.want.Sent, c.want.Outcome = "id", "topic", "key", 7, true, c.outcome
			got := c.policy.Decide(&c.attempt, &reliable.Confirm{ID: "id", Fence: 7, Outcome: c.outcome, Err: c.err}, c.since, c.parked)
			assert.Equal(t, c.want, got)
		})
	}
}

func TestPolicy_whatComesTooLateToBeHandedOverFailsWithoutACharge(t *testing.T) {
	p := Policy{MaxFailures: 3, ReleaseFailed: true}
	a := reliable.Attempt{Envelope: reliable.Envelope{ID: "id", Topic: "topic", Key: "key", Deadline: time.Minute}, Fence: 2, Attempts: 2, Age: time.Hour}
	assert.True(t, p.expired(&a, 0))
	assert.Equal(t, reliable.Settlement{
		ID: "id", Topic: "topic", Key: "key", Fence: 2, Sent: true, Outcome: reliable.Rejected, To: reliable.Failed, Release: true,
		Reason: "the deadline of 1m0s passed before this attempt",
	}, p.overdue(&a))
}

func TestPolicy_classicMakesNoAttemptBeyondItsLast(t *testing.T) {
	p := Policy{Classic: true, MaxFailures: 4}
	assert.False(t, p.expired(&reliable.Attempt{Attempts: 4}, time.Hour))
	a := reliable.Attempt{Attempts: 5} // the process of the fourth died with it
	assert.True(t, p.expired(&a, 0))
	assert.Equal(t, "all 4 attempts were made", p.overdue(&a).Reason)
}
