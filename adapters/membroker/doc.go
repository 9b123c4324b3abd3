// Package membroker is a message broker in memory: the reference implementation of [reliable.Publisher] and
// [reliable.ConfirmSource], with every fault of a real broker at the push of a button. It is for tests, examples and
// benchmarks; nothing outlives the process.
//
// What it promises: each attempt that was handed over has exactly one confirm, whatever is done to the broker. Without a
// script it answers at once, in order. Attempts of one connection are stored in the order of their hand-over. Given the same
// calls and the same script it does the same again, under testing/synctest to the nanosecond: time comes from the time
// package only, and the only goroutines are one for each subscription (ended by its context or Close) and one for each
// [Broker.Watermill] publisher in use (ended by its Close).
//
// A [Broker] is the server. It has a connection of its own, so that it can be passed as publisher and confirm source at
// once; [Broker.Connect] opens more of them, one for each process of a simulated fleet. A connection reconnects by itself,
// as those of real adapters do.
//
//	broker := membroker.New(membroker.WithScript(func(a membroker.Attempt) membroker.Verdict {
//		if a.OfID == 1 {
//			return membroker.Verdict{Act: membroker.LoseConfirm} // stored, but nobody is told
//		}
//		return membroker.Verdict{}
//	}))
//
// [Broker.Scheduler] delivers later, with faults of its own ([WithScheduleScript]): checks that are lost, refused, slow, late
// or doubled.
//
// What it does is checked from the outside: [Broker.Attempts] is the log of everything handed over and answered,
// [Broker.Delivered] what a topic holds.
package membroker
