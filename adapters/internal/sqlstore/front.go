package sqlstore

import (
	"sync"
	"time"
)

// front is how far the claims of one Store have come. What was due and has been leased stays behind in the index until the
// database has cleared it away (InnoDB's purge, PostgreSQL's vacuum; neither gets past an old transaction), and whoever
// looks from the beginning reads all of it: on MariaDB a claim of 500 cost twice as much. Claims therefore look on from
// where the last one ended, and from the beginning, for what became visible late (a long business transaction), only as
// often as takes a tenth of the time. The zero value has not come anywhere.
type front struct {
	mu    sync.Mutex
	due   int64     // of the last row that was claimed
	whole time.Time // from when on a claim looks from the beginning again
}

const (
	// wholeLookShare is how much longer than it took it is until the next look from the beginning.
	wholeLookShare = 10
	// wholeLookEvery is how long it is at most.
	wholeLookEvery = time.Second
)

// begin returns where the next claim looks from: 0 is the beginning.
func (f *front) begin(now time.Time) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now.Before(f.whole) {
		return f.due
	}
	return 0
}

// lose has the next claim look from the beginning: what the last one came to was not leased.
func (f *front) lose() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.whole = time.Time{}
}

// reached notes what a claim that looked from there has come to: the last of rows, which are in the order of their due.
func (f *front) reached(from int64, rows []*row, began, ended time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(rows) > 0 {
		f.due = rows[len(rows)-1].due
	}
	if from == 0 {
		f.whole = ended.Add(min(wholeLookShare*ended.Sub(began), wholeLookEvery))
	}
}
