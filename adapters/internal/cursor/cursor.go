// Package cursor makes the places in a store's lists printable, and recognises what is no such place: a damaged cursor,
// another store's, one of another filter.
package cursor

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/waybillmq/waybill/reliable"
)

// Place is where a page ended: the columns by which a list is ordered, as they were in its last row.
type Place struct {
	Due, Order int64
	Topic, ID  string
}

// encoding refuses trailing bits, so that each place has one cursor.
var encoding = base64.RawURLEncoding.Strict()

// Encode returns the cursor of a place in store's list of what f matches.
func Encode(store string, f reliable.Filter, p Place) reliable.Cursor {
	body := binary.AppendVarint(nil, p.Due)
	body = binary.AppendVarint(body, p.Order)
	body = binary.AppendUvarint(body, uint64(len(p.Topic)))
	body = append(body, p.Topic...)
	body = append(body, p.ID...)
	sealed := binary.BigEndian.AppendUint32(nil, seal(store, f, body))
	return reliable.Cursor(encoding.EncodeToString(append(sealed, body...)))
}

// Decode is the inverse of Encode. Its error is [reliable.ErrInvalid].
func Decode(store string, f reliable.Filter, c reliable.Cursor) (Place, error) {
	const sealBytes = 4
	sealed, err := encoding.DecodeString(string(c))
	if err != nil || len(sealed) < sealBytes {
		return Place{}, invalid()
	}
	body := sealed[sealBytes:]
	if binary.BigEndian.Uint32(sealed) != seal(store, f, body) {
		return Place{}, invalid()
	}
	var p Place
	var n int
	if p.Due, n = binary.Varint(body); n <= 0 {
		return Place{}, invalid()
	}
	body = body[n:]
	if p.Order, n = binary.Varint(body); n <= 0 {
		return Place{}, invalid()
	}
	body = body[n:]
	length, n := binary.Uvarint(body)
	if n <= 0 || length > uint64(len(body)-n) { //nolint:gosec // n is no more than what body has
		return Place{}, invalid()
	}
	body = body[n:]
	p.Topic, p.ID = string(body[:length]), string(body[length:])
	return p, nil
}

// seal guards against mistakes, not against malice: a cursor opens nothing that its holder could not list anyway.
func seal(store string, f reliable.Filter, body []byte) uint32 {
	sum := crc32.NewIEEE()
	_, _ = fmt.Fprintf(sum, "%q %d %q %d %q ", store, f.Status, f.Topic, f.OlderThan, f.Reason)
	_, _ = sum.Write(body)
	return sum.Sum32()
}

func invalid() error {
	return reliable.Invalid("After", "is no cursor of this store and filter: pass the Next of the page before, or nothing")
}
