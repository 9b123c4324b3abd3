// Package faults breaks real servers and real processes under a tagging outbox and under delayed checks, and looks at what
// came of it from the outside: at the business table, at the outbox's or the ledger's, at what consumers did, and at what a
// consumer of its own got from the broker.
//
// It has tests only. They need the test servers and start private ones for what kills, pauses or fills a server.
package faults
