//go:build services

package faults

import (
	"syscall"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/internal/testservers"
)

// Every place at which a message, its check or its confirm can be lost, met by both orders of sending, side by side on one
// broker: message first loses what it must lose, check first nothing but what meets two faults, or a consumer that is wrong.
func TestDelayed_checkFirstLosesNothingWhereMessageFirstDoes(t *testing.T) {
	t.Parallel()
	broker, ledgers := testservers.StartRabbitMQ(t), testservers.StartPostgres(t)
	both := []*drama{
		{scenario: newScenario(t, "checkfirst", false, broker, ledgers)},
		{scenario: newScenario(t, "messagefirst", true, broker, ledgers)},
	}
	began := time.Now()
	each := func(act func(*drama)) {
		t.Helper()
		for _, d := range both {
			act(d)
		}
		t.Log(time.Since(began).Round(100 * time.Millisecond))
	}
	each((*drama).open)
	each((*drama).loseChecks)
	each((*drama).placeForDeath)
	each((*drama).killCallback)
	broker.Kill()
	each((*drama).sendToNobody)
	each((*drama).killShop)
	broker.Start()
	ledgers.Kill()
	each((*drama).confirmToNobody)
	ledgers.Start()
	each((*drama).disturbConfirms)
	each((*drama).killConsumer)
	each((*drama).overload)

	for _, d := range both {
		t.Run(d.part.Suffix, d.end)
	}
}

// drama is a scenario with its processes.
type drama struct {
	*scenario
	doomed, shop, consumer *child
	callback, confirms     *child
}

func (d *drama) open() {
	d.consumer = d.start(consumerPart, stands)
	d.shop = d.start(shopPart)
	d.serve(d.part.Address)
	d.doomed = d.start(shopPart)
}

// serve has the shop answer at an address.
func (d *drama) serve(address string) {
	d.shop.tell("serve", address)
	d.shop.await("serves " + address)
}

// loseChecks purges the queue in which they wait. Nobody handles checks yet.
func (d *drama) loseChecks() {
	d.shop.place(checkLost, bothLost)
	lost := 0
	onChannel(d.t, d.part.AMQPURL, func(channel *amqp.Channel) (err error) {
		lost, err = channel.QueuePurge(delayQueue(unhurriedCheckDelay), false)
		return err
	})
	require.Equal(d.t, len(windowOf(checkLost).orders())+len(windowOf(bothLost).orders()), lost)
}

func (d *drama) placeForDeath() {
	d.shop.place(brokerAway)
	d.doomed.place(killedBeforeCommit, killedAfterCommit, killedBeforeSending, gone, brokerAwayKilled,
		checkTaken, requestStored, killedAsking, callRefused, callTimedOut, callFailed, callSlow)
}

// killCallback kills the callback service with one check that it has taken, one request that it has stored, and one call of
// the shop, which had its effect.
func (d *drama) killCallback() {
	first := d.start(callbackPart, stands)
	refused := windowOf(callRefused).orders()[0]
	d.eventually("a call is refused", func() bool { return d.asked(refused, askFailed) > 0 })
	d.serve(d.part.Refuses)
	first.awaitAt(checkTaken, requestStored, killedAsking)
	d.awaitEffects(killedBeforeSending, gone, callRefused, callTimedOut, callFailed, callSlow)
	if !d.part.MessageFirst {
		open := windowOf(killedBeforeCommit).orders()[0]
		d.eventually("the shop says that a transaction is open", func() bool { return d.asked(open, "open") > 0 })
	}
	first.kill()
	d.callback = d.start(callbackPart, func(p *delayedPart) { p.Topic = p.checksTopic() })
	d.confirms = d.start(callbackPart, func(p *delayedPart) { p.Topic = p.processedTopic() })
}

// sendToNobody has two shops send after COMMIT while the broker is away.
func (d *drama) sendToNobody() {
	d.doomed.letGo(brokerAwayKilled)
	d.shop.letGo(brokerAway)
	d.doomed.await("placed " + brokerAwayKilled)
	d.shop.await("placed " + brokerAway)
}

func (d *drama) killShop() { d.doomed.kill() }

func (d *drama) confirmToNobody() {
	d.shop.place(ledgerDown)
	d.awaitEffects(ledgerDown)
	d.awaitNote(refusedConfirm)
}

func (d *drama) disturbConfirms() {
	early, late, beside := windowOf(confirmEarly).orders()[0], windowOf(confirmLate).orders()[0], windowOf(confirmBeside).orders()[0]
	d.shop.place(confirmLost, confirmTwice, oneGroupFails, confirmLate, confirmBeside, confirmEarly)
	d.publishConfirm(early)
	d.awaitConfirm(early)
	d.shop.letGo(confirmEarly)

	d.awaitNote(decides + beside)
	d.consumer.letGo(confirmBeside)
	d.awaitConfirm(beside)
	d.callback.letGo(confirmBeside)

	d.eventually("the late one is sent again", func() bool { return d.asked(late, "resent") > 0 })
	d.consumer.letGo(confirmLate)
	d.awaitEffects(confirmLost, confirmTwice, oneGroupFails)
}

func (d *drama) killConsumer() {
	d.shop.place(consumerBeforeCommit, consumerAfterCommit, consumerAfterConfirm)
	d.consumer.awaitAt(consumerBeforeCommit, consumerAfterCommit, consumerAfterConfirm)
	d.consumer.kill()
	d.consumer = d.start(consumerPart)
}

// overload has checks come due while the consumers stand still.
func (d *drama) overload() {
	d.consumer.signal(syscall.SIGSTOP)
	d.shop.place(checksFirst)
	d.eventually("checks come before their confirms", func() bool { return d.count("asks WHERE id LIKE $1", checksFirst+"%") >= 20 })
	d.consumer.signal(syscall.SIGCONT)
}

// end waits until nothing moves any more, and looks at each window.
func (d *drama) end(t *testing.T) {
	d.scenario.t = t
	for i := range windows {
		if w := &windows[i]; !w.uncommitted && !w.lostBy(d.part.MessageFirst) {
			d.awaitEffects(w.name)
		}
	}
	d.awaitQuiet()
	committed, copies := d.orders.orders(), d.copies()
	for i := range windows {
		t.Run(windows[i].name, func(t *testing.T) { d.auditWindow(t, &windows[i], committed, copies) })
	}
	if !d.part.MessageFirst {
		assert.NotZero(t, d.asked(windowOf(killedBeforeCommit).orders()[0], "aborted"), "the witness must have dropped the check")
	}
	for _, name := range []string{confirmEarly, confirmBeside} {
		assert.Zero(t, d.asked(windowOf(name).orders()[0]), "%s: the stored confirm must be seen", name)
	}
	assert.Greater(t, copies[windowOf(confirmLost).orders()[0]], 1, "a copy must have been sent for the lost confirm")
	d.report(t, committed, copies)
}

func (d *drama) report(t *testing.T, committed map[string]bool, copies map[string]int) {
	sent := 0
	for _, n := range copies {
		sent += n
	}
	asked, unanswered := d.count("asks"), d.count("asks WHERE answer IS NULL OR answer = $1", askFailed)
	resent := d.count("asks WHERE answer = 'resent'")
	assert.LessOrEqual(t, sent-len(copies), resent+unanswered, "copies beyond resends and unknown outcomes")
	t.Logf("committed=%d sent=%d copies=%d asked=%d resent=%d unanswered=%d effects=%d",
		len(committed), len(copies), sent-len(copies), asked, resent, unanswered, d.count("effects"))
}
