// Package httprpc carries a [delayedcheck.Resender] over HTTP: the producer mounts a [Handler], the callback service calls it
// with a [Client].
//
// Guarantees:
//
//   - A request has an effect only if it was signed with a key that both sides know, at most the window ago, and was not seen
//     before by this handler. What is forged, altered, expired or replayed is refused, counted and changes nothing.
//   - An answer counts only if it was signed with the same key for the same request: somebody in between cannot say
//     "aborted" and have a message dropped.
//   - Keys are rotated without a pause: the handler takes several, the client signs with one.
//   - Bodies, concurrent requests, time and the memory for replays are limited.
//
// The request is a POST whose body is a check as it is scheduled. Signed are, by HMAC-SHA256 and a line each: the version of
// the scheme, the method, the path, the time (seconds since 1970), a nonce, and then the raw body. A proxy in between must
// leave the path as it is. Signatures keep nobody from reading: use TLS beyond the loopback interface; the client insists.
//
// A handler remembers requests for itself alone. One that was taken down on its way to one instance of a producer and is
// replayed to another one within the window has a copy of a committed message sent, as any resend does; nothing else.
package httprpc
