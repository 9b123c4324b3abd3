// Package memstore is the reference implementation of [reliable.Store] in memory, with every optional ability.
//
// It promises what the interfaces promise, for as long as the process lives: it is made for tests, for models and for
// examples, and loses everything when the process ends. Several engines may share one [Store], as the processes of a
// fleet share a database, and the Store outlives any of them.
//
// It uses time.Now and timers only and starts no goroutine, so that inside a testing/synctest bubble it is
// deterministic and its leases run on virtual time. A claim costs what it returns: envelopes that wait behind the head
// of their key or behind a hold stand in queues of their own.
//
// Business transactions are [Tx] values: [Store.Begin] starts one, Put writes business rows in it, and what was
// committed is read with [Store.Business], so that a model can check that a message exists if and only if its business
// row does.
//
// Faults are injected with [WithFault]: an operation can be slow, fail before it takes effect, take effect and lose its
// answer, or never answer.
package memstore
