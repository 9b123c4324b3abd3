// Package peers measures Waybill beside other ways to get a message from a Go program's database to a broker: Watermill's
// forwarder, oagudo/outbox, river, and a bare publish without an outbox. All are driven by the same load, on the same
// servers, in the same run; the README says how each is set up, and why so.
//
// It is a module of its own, so that nobody who uses Waybill requires the libraries that it is compared with.
package peers
