// Package retries tests the middleware for consumers on each broker: that a message which cannot be processed is confirmed
// in its poison topic before its original is acked, blocks nothing, is not lost while that topic is missing, keeps its ID
// through retries and replays, and its count through a restart.
//
// It has tests only. Without the build tag "services" they run on NATS inside the process.
package retries
