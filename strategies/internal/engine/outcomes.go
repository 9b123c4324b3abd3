package engine

import (
	"slices"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// settling is an outcome on its way to the store.
type settling struct {
	entry      *entry
	settlement reliable.Settlement
	failures   int // times the store refused it while it took others
}

// freesKey reports whether the next message of a key may go once this is recorded.
func freesKey(one *settling) bool {
	return one.settlement.Key != "" && one.settlement.To != reliable.Pending
}

// outcomes are those that wait to be recorded, in order.
type outcomes struct {
	list    []settling
	size    int       // bytes that their envelopes occupy in the window
	since   time.Time // when the first came, after there was none
	awaited bool      // somebody waits until one of them is recorded
}

func (o *outcomes) add(batch []settling, awaited bool) {
	if len(o.list) == 0 {
		o.since = time.Now()
	}
	o.list = append(o.list, batch...)
	o.size += sizeOf(batch)
	o.awaited = o.awaited || awaited
}

// putBack has batch in front again.
func (o *outcomes) putBack(batch []settling) {
	o.list = slices.Concat(batch, o.list)
	o.size += sizeOf(batch)
}

// next takes up to limit of them off, from the front.
func (o *outcomes) next(into []settling, limit int) []settling {
	taken := o.list[:min(len(o.list), limit)]
	o.size -= sizeOf(taken)
	into = append(into, taken...)
	rest := copy(o.list, o.list[len(taken):])
	clear(o.list[rest:])
	o.list = o.list[:rest]
	o.awaited = o.awaited && rest > 0
	return into
}

func sizeOf(batch []settling) (size int) {
	for i := range batch {
		size += batch[i].entry.size
	}
	return size
}
