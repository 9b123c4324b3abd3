// Package middleware makes sure that a message which its handler cannot process ends in a poison topic, with the reason
// and everything needed to send it again, and never blocks or loses anything on the way.
//
// What a [Preset] promises, on any broker and with any Watermill subscriber, as long as its publisher returns nil only for
// what the broker has confirmed (those of Waybill's adapters do):
//
//   - A message leaves its topic only once it was handled, or once the broker has confirmed its copy in a retry topic or in
//     the poison topic. While these cannot be published to, it is given back after a pause, and comes again.
//   - The copy keeps ID, key, payload and all metadata. What went wrong is added under names of Waybill's own, as [Failure]
//     tells: the topic, group and handler, the reason, how often it was tried, when it failed first.
//   - An attempt that did not take place (the process stops, the breaker is open) is never counted against the message, and
//     neither is what the handler marks with [Postpone]. What it marks with [Permanent] is not tried again.
//   - Retries in place ([RetryInPlace]) keep the order of the topic and block it, for no longer than [WithHold]. Retries
//     through topics ([RetryDelayed]) block nothing, give up the order of what is retried, and go on where they were after
//     a restart of the process.
//
// Copies may be duplicated, as everything may: when a process dies between the confirm and the ack. They have the same ID.
//
// The order of the layers is fixed, from the outside in: correlation, poison, retry, breaker, throttle, timeout, recoverer,
// middleware of your own ([WithMiddleware]), handler. docs/middleware.md says why, and what Watermill's own middleware does
// instead.
//
// [Replay] sends what is in a poison topic to where it came from.
package middleware
