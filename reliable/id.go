package reliable

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"sync"
	"time"
)

// MaxIDBytes is the longest ID that a store accepts, in bytes.
const MaxIDBytes = 128

// ID identifies an envelope: it is the primary key of its row, the message id on the wire, and what consumers
// deduplicate by. IDs are compared byte by byte, so "order-1" and "Order-1" are two messages.
//
// An empty ID is replaced by [NewID] when the envelope is sent. An ID that derives from the business operation (an order
// number, say) makes a repeated operation store its message once.
type ID string

var lastID struct {
	sync.Mutex
	tick uint64
}

// NewID returns a UUID of version 7 (RFC 9562): 36 characters that sort by the time they were made, strictly increasing
// within one process, so that rows keyed by them are appended rather than scattered. It is safe for concurrent use.
func NewID() ID {
	var raw [16]byte
	_, _ = rand.Read(raw[8:]) // never fails: crypto/rand aborts the program rather than return an error

	// 48 bits of milliseconds, then 12 bits of the millisecond's fraction, as RFC 9562 section 6.2 method 3 has it.
	now := time.Now()
	milli, fraction := uint64(now.UnixMilli()), uint64(now.Nanosecond()%int(time.Millisecond)) //nolint:gosec // after 1970
	tick := milli<<12 | fraction<<12/uint64(time.Millisecond)
	lastID.Lock()
	if tick <= lastID.tick {
		tick = lastID.tick + 1
	}
	lastID.tick = tick
	lastID.Unlock()

	binary.BigEndian.PutUint64(raw[:8], tick>>12<<16|0x7000|tick&0x0fff)
	raw[8] = raw[8]&0x3f | 0x80

	var text [36]byte
	hex.Encode(text[0:8], raw[0:4])
	hex.Encode(text[9:13], raw[4:6])
	hex.Encode(text[14:18], raw[6:8])
	hex.Encode(text[19:23], raw[8:10])
	hex.Encode(text[24:36], raw[10:16])
	text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	return ID(text[:])
}
