package health

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// Status is the sum of a report.
type Status string

const (
	// OK means that nothing is wrong.
	OK Status = "ok"
	// Degraded means that the process works, and that somebody should look at the reasons.
	Degraded Status = "degraded"
	// Unavailable means that the process cannot do its work now.
	Unavailable Status = "unavailable"
)

// Code names a reason, for alarms that make a difference between them.
type Code string

// The first three make a process unavailable, all others degraded.
const (
	// StoreUnreachable is a store that does not answer in time, or with an error.
	StoreUnreachable Code = "store_unreachable"
	// StoreUnmigrated is a store whose tables are missing, too old or too new.
	StoreUnmigrated Code = "store_unmigrated"
	// RelayStopped is a relay that does not run in this process.
	RelayStopped Code = "relay_stopped"
	// BrokerUnreachable is a broker that cannot be reached: messages are stored and wait.
	BrokerUnreachable Code = "broker_unreachable"
	// PendingOld is a topic whose oldest pending message is older than the limit.
	PendingOld Code = "pending_old"
	// FailedMessages is a topic with more failed messages than the limit.
	FailedMessages Code = "failed_messages"
	// TopicHeld is a topic that is held, because its destination refuses.
	TopicHeld Code = "topic_held"
	// CountsUnknown is a store that answers, but does not tell its counts or holds in time.
	CountsUnknown Code = "counts_unknown"
)

func (c Code) unavailable() bool {
	return c == StoreUnreachable || c == StoreUnmigrated || c == RelayStopped
}

// Reason is one thing that is wrong.
type Reason struct {
	Code  Code   `json:"code"`
	Topic string `json:"topic,omitempty"`
	// Text is for people.
	Text string `json:"text"`
}

// Report says how a process is.
type Report struct {
	Status Status `json:"status"`
	// Reasons are what is wrong, the worst first, at most [MaxReasons]; More counts what is left out.
	Reasons []Reason `json:"reasons,omitempty"`
	More    int      `json:"more,omitempty"`
	// Asked is when store and broker were asked, in UTC on this process's clock; for what is asked of neither, now.
	Asked time.Time `json:"asked"`
}

// MaxReasons is how many reasons a report has at most.
const MaxReasons = 20

// reportOf sorts reasons and sums them up.
func reportOf(asked time.Time, reasons []Reason) Report {
	rank := func(r Reason) int {
		if r.Code.unavailable() {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(reasons, func(a, b Reason) int {
		return cmp.Or(rank(a)-rank(b), strings.Compare(string(a.Code), string(b.Code)), strings.Compare(a.Topic, b.Topic))
	})
	report := Report{Status: OK, Reasons: reasons, Asked: asked.UTC()}
	switch {
	case len(reasons) > 0 && reasons[0].Code.unavailable():
		report.Status = Unavailable
	case len(reasons) > 0:
		report.Status = Degraded
	}
	if len(reasons) > MaxReasons {
		report.Reasons, report.More = reasons[:MaxReasons], len(reasons)-MaxReasons
	}
	return report
}
