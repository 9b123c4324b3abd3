//go:build services

package faults

// window is a place at which a message, its check or its confirm can be lost, with the orders that meet it.
type window struct {
	name string
	many int   // orders; 0 is one
	at   point // where the shop stands with them
	from way   // how they leave the shop
	both bool  // for billing and shipping, in place of billing alone

	uncommitted bool
	lost        by
}

// way is how orders leave the shop.
type way uint8

const (
	sent      way = iota
	unsent        // the message never reaches the broker; its check does
	unchecked     // the check is lost in its delay hop
	untold        // unsent, and the check is lost too
)

// by says who loses the orders of a window.
type by uint8

const (
	nobody            by = iota
	messageFirstAlone    // which is the order as it is usually described
	byEverybody          // two faults, or a consumer that breaks the order
)

const (
	afterCommit point = "after commit" // committed, nothing sent

	killedBeforeCommit  = "killed-before-commit"
	killedAfterCommit   = "killed-after-commit"
	killedBeforeSending = "killed-before-sending"
	gone                = "producer-gone"

	brokerAway       = "broker-away"
	brokerAwayKilled = "broker-away-then-killed"
	checkLost        = "check-lost"
	bothLost         = "message-and-check-lost"

	checkTaken    = "callback-killed-with-a-check"
	requestStored = "callback-killed-with-a-request"
	killedAsking  = "callback-killed-during-the-call"
	callRefused   = "call-refused"
	callTimedOut  = "call-timed-out-after-its-effect"
	callFailed    = "call-answered-500"
	callSlow      = "call-slow"

	confirmLost   = "confirm-lost"
	confirmLate   = "confirm-late"
	confirmTwice  = "confirm-twice"
	confirmEarly  = "confirm-before-the-commit"
	confirmBeside = "confirm-stored-while-another-decides"
	ledgerDown    = "confirm-while-the-ledger-is-down"
	oneGroupFails = "one-of-two-groups-fails"

	consumerBeforeCommit = "consumer-killed-before-its-commit"
	consumerAfterCommit  = "consumer-killed-before-its-confirm"
	consumerAfterConfirm = "consumer-killed-before-its-ack"

	checksFirst = "checks-before-the-confirms"

	load = "load" // orders that meet every fault by chance, in place of one window's
)

var windows = []window{
	{name: killedBeforeCommit, at: beforeCommit, uncommitted: true},
	{name: killedAfterCommit, many: 2, at: afterCommit, lost: messageFirstAlone},
	{name: killedBeforeSending, many: 2, from: unsent},
	{name: gone, many: 2, from: unsent},

	{name: brokerAway, at: afterCommit},
	{name: brokerAwayKilled, many: 2, at: afterCommit, lost: messageFirstAlone},
	{name: checkLost, many: 3, from: unchecked},
	{name: bothLost, from: untold, lost: byEverybody},

	{name: checkTaken, from: unsent},
	{name: requestStored, from: unsent},
	{name: killedAsking, from: unsent},
	{name: callRefused, from: unsent},
	{name: callTimedOut, from: unsent},
	{name: callFailed, from: unsent},
	{name: callSlow, from: unsent},

	{name: confirmLost},
	{name: confirmLate},
	{name: confirmTwice},
	{name: confirmEarly, at: beforeCommit},
	{name: confirmBeside},
	{name: ledgerDown, many: 3},
	{name: oneGroupFails, both: true},

	{name: consumerBeforeCommit},
	{name: consumerAfterCommit},
	{name: consumerAfterConfirm},

	{name: checksFirst, many: 100},
}

// lostBy reports whether a scenario loses the orders of a window.
func (w *window) lostBy(messageFirst bool) bool {
	return w.lost == byEverybody || w.lost == messageFirstAlone && messageFirst
}

// groups returns the groups that work on the orders of a window.
func (w *window) groups() []string {
	if w.both {
		return []string{billing, shipping}
	}
	return []string{billing}
}

// producer returns who is asked to send the orders of a window again. A window whose requests stand, or fail, has its own:
// the service asks a producer that does not answer for one request at a time.
func (w *window) producer() string {
	if w.from == unsent {
		return w.name
	}
	return shopName
}
