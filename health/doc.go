// Package health answers the probes of an orchestrator and the questions of a monitor over HTTP: whether a process with an
// outbox can do its work, and what is wrong if not.
//
// What it promises: an answer within the timeout, whatever store and broker do; a store and a broker that are asked once
// per interval, however often probes come, and by one question of each kind at a time; and an output without payloads,
// addresses, accounts or error texts, which go to the log only. Whom the listener serves is its owner's affair: bind it to
// the loopback interface, or put it behind what authenticates.
//
//	probes, err := health.New(store, health.WithRelay(outbox), health.WithBroker(broker))
//	...
//	server := &http.Server{Addr: "127.0.0.1:8086", Handler: probes, ReadHeaderTimeout: time.Second}
//
// The paths are those of [Handler]. An outbox takes messages while its broker is away, so an absent broker, old messages,
// failed messages and held topics make a process degraded, and it stays ready.
package health
