//go:build services

package faults

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/waybillmq/waybill/adapters/membroker"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

// The places at which a child stands still while it compensates.
const (
	beforeEffect point = "before effect" // the handler has begun
	afterEffect  point = "after effect"  // the handler has not returned
	beforeStatus point = "before status" // the handler has returned
)

// failedTopic is the topic of what is compensated.
const failedTopic = "payments"

// Messages with these prefixes have a handler that never succeeds.
const (
	alwaysFails = "fails"
	alwaysHangs = "hangs"
)

// compensate has the handlers of a child write what they do into tables, until the child is killed.
func (j job) compensate(ctx context.Context, db *sql.DB, store reliable.Store) error {
	stand := &standstill{at: j.Stand}
	h := &refunds{db: db, kind: j.Database.kind(), stand: stand}
	handler := tagging.WithFailedHandler(failedTopic, func(ctx context.Context, record *reliable.Record) error {
		return h.refund(ctx, db, record)
	})
	if j.InTx {
		handler = tagging.WithFailedTxHandler(failedTopic, db, func(ctx context.Context, tx *sql.Tx, record *reliable.Record) error {
			return h.refund(ctx, tx, record)
		})
	}
	broker := membroker.New(membroker.WithConfirmTimeout(time.Second))
	atOnce := 4
	if j.Stand != nowhere {
		atOnce = 1 // the rest is for others
	}
	outbox, err := tagging.New(compensatingStore{standingStore{store, stand}}, broker, broker, handler,
		tagging.WithLease(j.Lease), tagging.WithLogger(slog.New(slog.DiscardHandler)), tagging.WithoutRetention(),
		tagging.WithHandlersAtOnce(atOnce), tagging.WithHandlerBackoff(200*time.Millisecond, 2*time.Second))
	if err != nil {
		return err
	}
	return outbox.Run(ctx)
}

// executor is what a transaction and a pool of connections have in common.
type executor interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// refunds is a handler that notes when it runs, on the database's clock, and has one effect: a row.
type refunds struct {
	db    *sql.DB
	kind  string
	stand *standstill
}

// createRefunds makes the tables: one row for each run, one row for each effect.
func createRefunds(ctx context.Context, db *sql.DB) error {
	for _, statement := range []string{
		"CREATE TABLE runs (id VARCHAR(64), fence BIGINT, began BIGINT, ended BIGINT, PRIMARY KEY (id, fence))",
		"CREATE TABLE refunds (id VARCHAR(64))",
	} {
		if _, err := db.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

// clock is the database's clock in microseconds.
func clock(kind string) string {
	if kind == "postgres" {
		return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)"
	}
	return "CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS SIGNED)"
}

// refund has its effect through e; when it ran is noted outside of any transaction.
func (h *refunds) refund(ctx context.Context, e executor, record *reliable.Record) error {
	id := string(record.ID)
	_, err := h.db.ExecContext(ctx, fmt.Sprintf("INSERT INTO runs (id, fence, began) VALUES ('%s', %d, %s)", id, record.Fence, clock(h.kind)))
	if err != nil {
		return err
	}
	h.stand.reach(beforeEffect)
	switch {
	case strings.HasPrefix(id, alwaysFails):
		err = errors.New("the bank says no")
	case strings.HasPrefix(id, alwaysHangs): // for nearly as long as it may
		deadline, _ := ctx.Deadline()
		time.Sleep(time.Until(deadline) - time.Second)
		err = errors.New("the bank does not answer")
	default:
		_, err = e.ExecContext(ctx, fmt.Sprintf("INSERT INTO refunds (id) VALUES ('%s')", id))
	}
	h.stand.reach(afterEffect)
	_, noted := h.db.ExecContext(context.WithoutCancel(ctx),
		fmt.Sprintf("UPDATE runs SET ended = %s WHERE id = '%s' AND fence = %d", clock(h.kind), id, record.Fence))
	return errors.Join(err, noted)
}

// compensatingStore stands still before a status is recorded.
type compensatingStore struct{ standingStore }

func (s compensatingStore) Unwrap() any { return s.standingStore }

func (s compensatingStore) ClaimFailed(ctx context.Context, req reliable.ClaimRequest, topics ...string) ([]reliable.Record, error) {
	compensator, _ := reliable.Ability[reliable.Compensator](s.Store)
	return compensator.ClaimFailed(ctx, req, topics...)
}

func (s compensatingStore) SettleCompensation(ctx context.Context, c reliable.Compensation) (reliable.SettleResult, error) {
	s.stand.reach(beforeStatus)
	compensator, _ := reliable.Ability[reliable.Compensator](s.Store)
	return compensator.SettleCompensation(ctx, c)
}

func (t standingTx) SettleCompensation(ctx context.Context, c reliable.Compensation) (reliable.SettleResult, error) {
	t.stand.reach(beforeStatus)
	settler, ok := reliable.Ability[reliable.CompensationSettler](t.Tx)
	if !ok {
		return 0, errors.ErrUnsupported
	}
	return settler.SettleCompensation(ctx, c)
}
