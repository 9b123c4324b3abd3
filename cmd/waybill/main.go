// Waybill is the command for those who operate outboxes: it looks into any store, explains what became of a message,
// records decisions about failed ones, and relays.
//
// It deletes and changes nothing without being told to, asks before it changes more than one message, and never shows a
// payload (but for `explain --payload`), a password or a token.
//
//	export WAYBILL_STORE=postgres://shop:secret@db.internal/shop
//	waybill status
//	waybill list --topic orders.placed
//	waybill explain order-17
//	waybill requeue --topic orders.placed --why "the queue is declared again"
//
// `waybill help` says the rest.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
