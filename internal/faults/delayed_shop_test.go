//go:build services

package faults

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waybillmq/waybill/adapters/rabbitmqbroker"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/delayedcheck"
	"github.com/waybillmq/waybill/strategies/delayedcheck/httprpc"
)

// shopName is the producer of all orders that have no other.
const shopName = "shop"

// rpcKey signs the resend requests of these tests.
func rpcKey() httprpc.Key {
	key, err := httprpc.ParseKey("faults:" + strings.Repeat("0123456789abcdef", 4))
	if err != nil {
		panic(err)
	}
	return key
}

// seller is the process of a shop.
type seller struct {
	delayedPart
	cues    *cues
	db      *sql.DB
	senders map[string]*delayedcheck.Sender // by window; those of the shop share one, or two, by their delay
}

// sell does what the test says: "place <window>", "serve <address>".
func (p delayedPart) sell(ctx context.Context, _ books, c *cues) error {
	db, transactor, witness, err := p.Shop.open(ctx)
	if err != nil {
		return err
	}
	s := &seller{delayedPart: p, cues: c, db: db, senders: make(map[string]*delayedcheck.Sender)}
	queues, err := p.queues()
	if err != nil {
		return err
	}
	scheduler, err := queues.Scheduler([]time.Duration{checkDelay, unhurriedCheckDelay}, rabbitmqbroker.WithShards(1))
	if err != nil {
		return err
	}
	shared := make(map[way]*delayedcheck.Sender)
	for i := range windows {
		w := &windows[i]
		if s.senders[w.name] = shared[w.from]; shared[w.from] != nil {
			continue
		}
		sender, err := s.sender(w, cuedTransactor{transactor, c}, witness, scheduler)
		if err != nil {
			return err
		}
		s.senders[w.name] = sender
		if w.from != unsent {
			shared[w.from] = sender
		}
		go func() { fmt.Println("ended:", sender.Run(ctx)) }()
	}
	fmt.Println("ready")
	for words := range c.lines {
		switch words[0] {
		case "place":
			go s.placeAll(ctx, windowOf(words[1]))
		case "serve":
			if err := s.serve(s.senders[killedAfterCommit], words[1]); err != nil {
				return err
			}
			fmt.Println("serves", words[1])
		}
	}
	return errors.New("nobody tells it anything more")
}

func (s *seller) sender(
	w *window, transactor reliable.Transactor, witness reliable.Witness, scheduler reliable.Scheduler,
) (*delayedcheck.Sender, error) {
	options := []delayedcheck.SenderOption{
		delayedcheck.WithTransactions(transactor), delayedcheck.WithCheckTopic(s.checksTopic()),
		delayedcheck.WithCheckDelay(w.from.delay()), delayedcheck.WithProducerName(w.producer()),
		delayedcheck.WithGroups(billing), delayedcheck.WithTopicGroups(s.bothTopic(), billing, shipping),
		delayedcheck.WithCheckTimeout(patience), delayedcheck.WithMaxAge(1), delayedcheck.WithBreaker(1000, time.Millisecond),
		delayedcheck.WithSenderLogger(slog.New(slog.DiscardHandler)),
	}
	if s.MessageFirst {
		options = append(options, delayedcheck.MessageFirst())
	} else {
		options = append(options, delayedcheck.WithWitness(witness))
	}
	if w.from == unsent || w.from == untold {
		return delayedcheck.NewSender(deaf{}, deaf{}, scheduler, options...)
	}
	events, err := s.events("shop") // each its own: confirms have one reader
	if err != nil {
		return nil, err
	}
	return delayedcheck.NewSender(events, events, scheduler, options...)
}

func (w way) delay() time.Duration {
	if w == unchecked || w == untold {
		return unhurriedCheckDelay
	}
	return checkDelay
}

// placeAll places the orders of a window at once and says so when they are.
func (s *seller) placeAll(ctx context.Context, w *window) {
	var group sync.WaitGroup
	for _, id := range w.orders() {
		group.Go(func() {
			if err := s.place(context.WithValue(ctx, orderKey{}, id), w, id); err != nil {
				fmt.Println("ended: place", id, err)
			}
		})
	}
	group.Wait()
	fmt.Println("placed", w.name)
}

// orderKey is under what a context has the order that is placed.
type orderKey struct{}

func (s *seller) place(ctx context.Context, w *window, id string) error {
	topic := s.ordersTopic()
	if w.both {
		topic = s.bothTopic()
	}
	for {
		err := delayedcheck.InTx(ctx, s.senders[w.name], s.db, func(tx *sql.Tx, out *delayedcheck.Scope) error {
			if err := insertOrder(ctx, tx, s.Shop.Database.kind(), id); err != nil {
				return err
			}
			return out.Send(reliable.Envelope{ID: reliable.ID(id), Topic: topic, Payload: []byte(id)})
		})
		if !errors.Is(err, delayedcheck.ErrNotChecked) && !errors.Is(err, delayedcheck.ErrTooOld) {
			return err
		}
	}
}

// serve answers resend requests at an address.
func (s *seller) serve(sender *delayedcheck.Sender, address string) error {
	handler, err := httprpc.NewHandler(&clumsy{Resender: sender}, []httprpc.Key{rpcKey()}, httprpc.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: patience}
	go func() { fmt.Println("ended:", server.Serve(listener)) }()
	return nil
}

// clumsy is a producer that answers some requests badly.
type clumsy struct {
	delayedcheck.Resender
	failed, hung atomic.Int32
}

func (c *clumsy) Resend(ctx context.Context, check delayedcheck.Check) (delayedcheck.Answer, error) {
	name := windowOf(string(check.Message.ID)).name
	switch {
	case name == callFailed && c.failed.Add(1) <= 2:
		return 0, errors.New("the shop has a bad day") // which the handler answers with 500
	case name == callSlow:
		time.Sleep(resendTimeout / 4)
	}
	answer, err := c.Resender.Resend(ctx, check)
	if name == callTimedOut && c.hung.Add(1) == 1 {
		<-ctx.Done()
	}
	return answer, err
}

// deaf is a broker that takes no message.
type deaf struct{}

func (deaf) Publish(ctx context.Context, _ []reliable.Attempt) (int, error) {
	<-ctx.Done()
	return 0, ctx.Err()
}

func (deaf) Receive(ctx context.Context, _ int) ([]reliable.Confirm, error) {
	<-ctx.Done()
	return nil, io.EOF
}

// cuedTransactor has transactions stand where their windows say.
type cuedTransactor struct {
	reliable.Transactor
	cues *cues
}

func (t cuedTransactor) Begin(ctx context.Context, db any) (reliable.Tx, error) {
	tx, err := t.Transactor.Begin(ctx, db)
	return cuedTx{tx, t.cues}, err
}

type cuedTx struct {
	reliable.Tx
	cues *cues
}

func (t cuedTx) Commit(ctx context.Context) error {
	id, _ := ctx.Value(orderKey{}).(string)
	at := windowOf(id).at
	if at == beforeCommit {
		t.cues.stand(id)
	}
	err := t.Tx.Commit(ctx)
	if at == afterCommit {
		t.cues.stand(id)
	}
	return err
}
