//go:build services

package faults

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waybillmq/waybill/adapters/mysqlstore"
	"github.com/waybillmq/waybill/adapters/postgresstore"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

// The places at which a child stands still while its orders are in another database than its outbox, in their order;
// beforeCommit, beforeConfirm and beforeSettle are those of every child.
const (
	beforeMark     point = "before mark"     // the order is inserted
	beforeWithhold point = "before withhold" // marked, nothing in the outbox's database
	beforeRelease  point = "before release"  // committed, and withheld
	afterRelease   point = "after release"   // in the outbox, nothing sent
)

// shop is a business database with what its outbox elsewhere needs of it.
type shop struct {
	Database database
	Marker   bool // the witness is a commit marker in place of what the database offers without writing
}

// shopAskAfter is how long what a dead process left is withheld before the witness is asked.
const shopAskAfter = time.Second

// open returns the business database, its transactions and its witness.
func (s shop) open(ctx context.Context) (*sql.DB, reliable.Transactor, reliable.Witness, error) {
	db, store, err := s.Database.open(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	transactor, _ := reliable.Ability[reliable.Transactor](store)
	witness, err := s.witness(db, store)
	return db, transactor, witness, err
}

func (s shop) witness(db *sql.DB, store reliable.Store) (reliable.Witness, error) {
	if s.Marker {
		marker, _ := reliable.Ability[reliable.Marker](store)
		return marker.MarkerWitness(time.Hour)
	}
	if s.Database.kind() == "postgres" {
		return postgresstore.NewWitness(db)
	}
	return mysqlstore.NewRowWitness(db, mysqlstore.WitnessRow{Table: "orders", Column: "id", Promise: mysqlstore.RowPromise{
		TransactionInserts: true, KeyIsUnique: true, NeverDeletedInTime: true, SameWritableNode: true, IDDerivesFromRow: true,
	}})
}

// placeElsewhere writes one order in the business database, and its message.
func placeElsewhere(ctx context.Context, outbox *tagging.Outbox, db *sql.DB, kind, id string) error {
	return tagging.InTx(ctx, outbox.Elsewhere("shop"), db, func(tx *sql.Tx, out *tagging.Scope) error {
		if err := insertOrder(ctx, tx, kind, id); err != nil {
			return err
		}
		return out.Send(reliable.Envelope{ID: reliable.ID(id), Topic: queue, Payload: []byte(id)})
	})
}

// elsewhere has a child place orders from several goroutines; the first few come through, whatever the child is to stand at.
func (j job) elsewhere(ctx context.Context, store reliable.Store, broker connection) error {
	db, transactor, witness, err := j.Shop.open(ctx)
	if err != nil {
		return err
	}
	stand := &armed{standstill: standstill{at: j.Stand}}
	outbox, err := tagging.New(shopStore{store, stand}, broker, shopConfirms{broker, stand},
		tagging.WithElsewhere("shop", shopTransactor{transactor, stand}, shopWitness{witness, stand}, tagging.AskAfter(shopAskAfter)),
		tagging.WithLease(j.Lease), tagging.WithLogger(slog.New(slog.DiscardHandler)), tagging.WithoutRetention())
	if err != nil {
		return err
	}
	relayed := make(chan error, 1)
	go func() { relayed <- outbox.Run(ctx) }()
	for !outboxRuns(outbox) {
		time.Sleep(time.Millisecond)
	}
	const comeThrough = 5
	for i := range comeThrough {
		if err := placeElsewhere(ctx, outbox, db, j.Shop.Database.kind(), fmt.Sprintf("%s-before-%d", j.Prefix, i)); err != nil {
			return err
		}
	}
	if err := untilSettled(ctx, outbox); err != nil { // or the child stands with one of these
		return err
	}
	stand.armed.Store(true)
	var group sync.WaitGroup
	for g := range 4 {
		group.Go(func() {
			for i := range j.Orders / 4 {
				if err := placeElsewhere(ctx, outbox, db, j.Shop.Database.kind(), fmt.Sprintf("%s-%d-%d", j.Prefix, g, i)); err != nil {
					fmt.Println("ended:", err)
					return
				}
			}
		})
	}
	group.Wait()
	fmt.Println("placed")
	return <-relayed
}

func untilSettled(ctx context.Context, outbox *tagging.Outbox) error {
	for {
		topics, err := outbox.Stats(ctx)
		if err != nil || len(topics) == 0 {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// armed is a standstill that begins later.
type armed struct {
	standstill
	armed atomic.Bool
}

func (a *armed) reach(p point) {
	if a.armed.Load() {
		a.standstill.reach(p)
	}
}

type shopWitness struct {
	reliable.Witness
	stand *armed
}

func (w shopWitness) Mark(ctx context.Context, tx any) (reliable.Token, error) {
	w.stand.reach(beforeMark)
	return w.Witness.Mark(ctx, tx)
}

type shopTransactor struct {
	reliable.Transactor
	stand *armed
}

func (t shopTransactor) Begin(ctx context.Context, db any) (reliable.Tx, error) {
	tx, err := t.Transactor.Begin(ctx, db)
	return shopTx{tx, t.stand}, err
}

type shopTx struct {
	reliable.Tx
	stand *armed
}

func (t shopTx) Commit(ctx context.Context) error {
	t.stand.reach(beforeCommit)
	return t.Tx.Commit(ctx)
}

type shopStore struct {
	reliable.Store
	stand *armed
}

func (s shopStore) Unwrap() any { return s.Store }

func (s shopStore) withholder() reliable.Withholder {
	withholder, _ := reliable.Ability[reliable.Withholder](s.Store)
	return withholder
}

func (s shopStore) Withhold(ctx context.Context, patience time.Duration, ws ...reliable.Withheld) error {
	s.stand.reach(beforeWithhold)
	return s.withholder().Withhold(ctx, patience, ws...)
}

func (s shopStore) Undecided(ctx context.Context, source string, req reliable.ClaimRequest) ([]reliable.Withheld, error) {
	return s.withholder().Undecided(ctx, source, req)
}

func (s shopStore) Resolve(ctx context.Context, req reliable.EnqueueRequest, rs ...reliable.Resolution) ([]reliable.Resolved, error) {
	s.stand.reach(beforeRelease)
	results, err := s.withholder().Resolve(ctx, req, rs...)
	s.stand.reach(afterRelease)
	return results, err
}

func (s shopStore) Settle(ctx context.Context, ss ...reliable.Settlement) ([]reliable.SettleResult, error) {
	s.stand.reach(beforeSettle)
	return s.Store.Settle(ctx, ss...)
}

type shopConfirms struct {
	reliable.ConfirmSource
	stand *armed
}

func (c shopConfirms) Receive(ctx context.Context, limit int) ([]reliable.Confirm, error) {
	confirms, err := c.ConfirmSource.Receive(ctx, limit)
	if len(confirms) > 0 {
		c.stand.reach(beforeConfirm)
	}
	return confirms, err
}
