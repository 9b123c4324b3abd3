package tagging

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// Elsewhere is a database with business data that is not the outbox's own: what [InTx] works on, in place of an [Outbox],
// where the transaction is there. See [WithElsewhere].
type Elsewhere struct {
	s          *Sender
	name       string
	business   reliable.Transactor
	witness    reliable.Witness
	withholder reliable.Withholder
	cfg        elsewhereConfig

	holding   *gathering[*withholding]
	resolving *gathering[*resolving]
}

type elsewhereConfig struct {
	askAfter       time.Duration
	sendUnknowable bool
}

// ElsewhereOption configures [WithElsewhere].
type ElsewhereOption func(*config, *elsewhereConfig)

// AskAfter sets for how long a message may be withheld before the witness is asked about its transaction, and how long
// after an answer "still open" it is asked again; default 1 minute, on the store's clock. Only what a crash or a lost
// answer left behind is ever asked about, so it is how late such a message is. Too short costs questions about
// transactions that are merely slow, and nothing else.
func AskAfter(d time.Duration) ElsewhereOption {
	return func(c *config, e *elsewhereConfig) {
		if c.between("AskAfter", d, 100*time.Millisecond, 24*time.Hour) {
			e.askAfter = d
		}
	}
}

// SendWhatNobodyCanTell sends messages of whose transaction the witness cannot tell whether it committed. By default they
// are stored as failed, for people, or a compensation handler, to decide.
func SendWhatNobodyCanTell() ElsewhereOption {
	return func(_ *config, e *elsewhereConfig) { e.sendUnknowable = true }
}

// WithElsewhere lets messages be sent about business data in another database than the outbox's. [Sender.Elsewhere] with
// the same name is what [InTx] takes then. The name is stored with each message and says whose witness to ask: give it to
// one database, keep it, and pass this option in every process, relays above all, since their recovery pass does the asking.
//
// business is a store of that database's adapter, of which only transactions are used: it needs no tables. witness tells
// what became of a transaction there: [github.com/waybillmq/waybill/adapters/postgresstore.NewWitness], or a NewRowWitness,
// or the MarkerWitness of any store.
//
// Before COMMIT the messages are stored in the outbox's database, withheld, so no relay sees them. After it they are
// released. What was not, because somebody died in between, is decided by the witness: a message of a transaction that
// committed is sent, one of a transaction that aborted is deleted, and one of a transaction that is open is asked about
// again. A message costs the transaction one statement in either database, and the caller another one after COMMIT.
func WithElsewhere(name string, business reliable.Transactor, witness reliable.Witness, opts ...ElsewhereOption) Option {
	return func(c *config) {
		e := &Elsewhere{name: name, business: business, witness: witness, cfg: elsewhereConfig{askAfter: time.Minute}}
		switch {
		case name == "" || len(name) > reliable.MaxSourceBytes || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r > '~' }):
			c.invalid("WithElsewhere", "name %q must have 1 to %d bytes of printable ASCII", name, reliable.MaxSourceBytes)
		case business == nil || witness == nil:
			c.invalid("WithElsewhere", "%q needs a store of its database and a witness, neither may be nil", name)
		case c.elsewhere[name] != nil:
			c.invalid("WithElsewhere", "%q is given twice: a name is that of one database", name)
		}
		for _, opt := range opts {
			opt(c, &e.cfg)
		}
		if c.elsewhere == nil {
			c.elsewhere = make(map[string]*Elsewhere)
		}
		c.elsewhere[name] = e
	}
}

// checkElsewhere says whether the store can keep messages back.
func (c *config) checkElsewhere(store reliable.Store) {
	for _, e := range c.elsewhere {
		var ok bool
		if e.withholder, ok = reliable.Ability[reliable.Withholder](store); !ok {
			c.invalid("WithElsewhere", "the store is no reliable.Withholder: use an outbox in the business database")
		}
	}
}

func (e *Elsewhere) bind(s *Sender) {
	e.s = s
	e.holding = &gathering[*withholding]{writers: s.cfg.groupWriters, next: e.nextWithheld, write: e.withhold}
	e.resolving = &gathering[*resolving]{writers: s.cfg.groupWriters, next: e.nextResolved, write: e.resolve}
}

// Elsewhere returns what [InTx] takes for business data in another database, as [WithElsewhere] named it. A name that
// was not given is an error of InTx.
func (s *Sender) Elsewhere(name string) *Elsewhere {
	if e := s.cfg.elsewhere[name]; e != nil {
		return e
	}
	return &Elsewhere{s: s, name: name}
}

func (e *Elsewhere) sender() *Sender { return e.s }

func (e *Elsewhere) begin(ctx context.Context, db any) (reliable.Tx, error) {
	if e.business == nil {
		return nil, reliable.Invalid("Elsewhere", "%q is not known: pass WithElsewhere(%q, ...) to New or NewSender", e.name, e.name)
	}
	return e.business.Begin(ctx, db)
}

// commit withholds what was buffered, commits, and releases.
func (e *Elsewhere) commit(ctx context.Context, tx reliable.Tx, envs []reliable.Envelope) error {
	if len(envs) == 0 {
		return committed(tx.Commit(ctx))
	}
	token, err := e.witness.Mark(ctx, tx.Native())
	if err != nil {
		return reliable.NotStored("tagging: mark the transaction", err)
	}
	ws := make([]reliable.Withheld, len(envs))
	for i := range envs {
		ws[i] = reliable.Withheld{Envelope: envs[i], Ticket: reliable.NewID(), Source: e.name, Token: token}
	}
	if err := e.keep(ctx, ws); err != nil {
		return err
	}
	switch err = committed(tx.Commit(ctx)); {
	case err == nil:
		e.decide(ctx, reliable.FateCommitted, ws)
	case !errors.Is(err, reliable.ErrUnknown):
		e.decide(ctx, reliable.FateAborted, ws)
	default: // the witness will tell
	}
	return err
}

// keep withholds messages, with those of other callers.
func (e *Elsewhere) keep(ctx context.Context, ws []reliable.Withheld) error {
	call := &withholding{ws: ws, size: withheldSize(ws), done: make(chan struct{})}
	e.holding.add(call)
	select {
	case <-call.done:
	case <-ctx.Done(): // the transaction does not commit: should they be stored, the witness says so
		return reliable.NotStored("tagging: withhold", ctx.Err())
	}
	switch {
	case call.err == nil:
		return nil
	case errors.Is(call.err, reliable.ErrConflict), errors.Is(call.err, reliable.ErrInvalid):
		return fmt.Errorf("tagging: withhold: %w", call.err)
	}
	// Whatever is not known of them, the transaction certainly does not commit.
	return fmt.Errorf("tagging: withhold: %w: %v", reliable.ErrNotStored, call.err) //nolint:errorlint // not as ErrUnknown
}

// decide records what became of the caller's transaction, with those of other callers, and hands over what is released.
// If that does not succeed, the witness will tell.
func (e *Elsewhere) decide(ctx context.Context, fate reliable.Fate, ws []reliable.Withheld) {
	call := &resolving{fate: fate, ws: ws, size: withheldSize(ws), done: make(chan struct{})}
	if fate == reliable.FateCommitted && e.s.relay != nil {
		call.reserved = e.s.relay.TryReserve(len(ws), call.size)
	}
	e.resolving.add(call)
	<-call.done
	if call.err != nil {
		e.s.cfg.logger.WarnContext(ctx, "messages stay withheld until a witness has told that their transaction is over",
			slog.String("elsewhere", e.name), slog.String("fate", fate.String()), slog.Int("messages", len(ws)), slog.Any("error", call.err))
	}
}

func withheldSize(ws []reliable.Withheld) (size int) {
	for i := range ws {
		size += ws[i].Size()
	}
	return size
}
