package middleware

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/reliable"
)

// correlationID is where Watermill keeps what belongs together.
const correlationID = "correlation_id"

// errNoTopic is what a message meets whose context does not say where it comes from.
var errNoTopic = errors.New("middleware: the message's context names no topic: the handler must be run by a Watermill router")

// Middleware returns h with everything that the preset does around it. Topic and handler name come from the context that
// Watermill's router gives a message.
//
// It works for handlers that were added by other means than [Preset.AddHandler], as those of Watermill's CQRS component:
// router.AddMiddleware(preset.Middleware). With [RetryDelayed] somebody must then consume the retry topics, with the same
// handler and this middleware.
func (p *Preset) Middleware(h message.HandlerFunc) message.HandlerFunc {
	return p.middleware(h, "", nil)
}

// middleware is Middleware; out, if not nil, is where the handler's messages go when the preset publishes them itself.
func (p *Preset) middleware(h message.HandlerFunc, outTopic string, out message.Publisher) message.HandlerFunc {
	for _, inner := range slices.Backward(p.inner) {
		h = inner(h)
	}
	c := &consumer{Preset: p, handler: h, outTopic: outTopic, out: out}
	if p.broken {
		c.breaker = newBreaker(p.failures, p.open)
	}
	if p.throttled > 0 {
		c.throttle = &throttle{every: p.per / time.Duration(p.throttled)}
	}
	return c.handle
}

// consumer is one handler under a preset.
type consumer struct {
	*Preset
	handler  message.HandlerFunc
	outTopic string
	out      message.Publisher
	breaker  *breaker
	throttle *throttle
}

// delivery is one message as it came from the broker. Its handler gets the same *message.Message, but may have changed what
// is in it by the time that it fails.
type delivery struct {
	msg      *message.Message
	ctx      context.Context //nolint:containedctx // the message's own, which attempts replace
	id       string
	payload  message.Payload
	metadata message.Metadata // as it came
	sent     message.Metadata // the same without what consumers added
	until    time.Time        // until when it may be held
	failure  Failure          // what is known of it
}

// handle returns an error if the message must come again: then it is where it was.
func (c *consumer) handle(msg *message.Message) ([]*message.Message, error) {
	d := &delivery{
		msg: msg, ctx: msg.Context(), id: msg.UUID, payload: msg.Payload, metadata: msg.Metadata, sent: without(msg.Metadata),
		until: time.Now().Add(c.hold),
	}
	defer d.restore()
	topic := message.SubscribeTopicFromCtx(d.ctx)
	if topic == "" {
		return nil, c.giveBack(d, errNoTopic)
	}
	d.failure = c.history(d, topic)
	if waiting, err := c.awaitDue(d, topic); waiting || err != nil {
		return nil, err
	}
	produced, err := c.try(d)
	if err == nil {
		produced, err = c.confirmed(d, correlate(d, produced))
		if err != nil {
			return nil, c.giveBack(d, err)
		}
		return produced, nil
	}
	return nil, c.settle(d, err)
}

// history is what the message says of earlier failures. It is believed only in a retry topic of this group: whoever passes
// on the metadata of a message that he got does not pass on its failures.
func (c *consumer) history(d *delivery, topic string) Failure {
	f, ok := FailureOf(&message.Message{Metadata: d.metadata})
	if ok && f.Group == c.group && f.Retries > 0 && slices.Contains(c.RetryTopics(f.Topic), topic) {
		return f
	}
	return Failure{
		Topic: c.origin(topic), Group: c.group, Handler: message.HandlerNameFromCtx(d.ctx),
		Replays: count(d.metadata[reliable.HeaderReplays]),
	}
}

type historyKey struct{}

// HistoryOf returns what a handler may want to know of its message, from the message's context: how often it was tried and
// failed before, since when, why the last time, and how often it was replayed. It is zero outside of a preset.
func HistoryOf(ctx context.Context) Failure {
	f, _ := ctx.Value(historyKey{}).(Failure)
	return f
}

// awaitDue waits until a message of a retry topic is due. What would be held for too long goes to the end of its topic;
// then waiting is true and this delivery is over.
func (c *consumer) awaitDue(d *delivery, topic string) (waiting bool, err error) {
	if d.failure.Due.IsZero() {
		return false, nil
	}
	// Clocks may differ: nothing waits for longer than it was to wait from the beginning.
	wait := min(time.Until(d.failure.Due), c.delays[min(d.failure.Retries, len(c.delays))-1])
	if wait <= c.hold {
		if err := sleep(d.ctx, wait); err != nil {
			return false, err
		}
		d.failure.Due, d.until = time.Time{}, time.Now().Add(c.hold)
		return false, nil
	}
	if err := sleep(d.ctx, c.hold); err != nil {
		return false, err
	}
	if err := c.publish(topic, d); err != nil {
		return false, c.giveBack(d, err)
	}
	c.trouble.Store(0)
	return true, nil
}

// try makes attempts until one succeeds, or until the message has to go elsewhere.
func (c *consumer) try(d *delivery) ([]*message.Message, error) {
	for pause, left := c.firstPause, c.retries; ; pause, left = 2*pause, left-1 {
		produced, err := c.attempt(d)
		switch {
		case err == nil:
			return produced, nil
		case !c.charged(d, err):
			return nil, &notChargedError{err}
		}
		c.charge(d, err)
		if c.isPermanent(err) || left <= 0 || time.Now().Add(pause).After(d.until) {
			return nil, err
		}
		if err := sleep(d.ctx, pause); err != nil {
			return nil, &notChargedError{err}
		}
	}
}

// attempt calls the handler once, when the breaker and the throttle let it. An attempt that was not made is errOpen,
// errThrottled, or the end of the message's context.
func (c *consumer) attempt(d *delivery) ([]*message.Message, error) {
	probe, err := c.breaker.enter(d.ctx, d.until)
	if err != nil {
		return nil, err
	}
	if err := c.throttle.wait(d.ctx, d.until); err != nil {
		c.breaker.leave(d.id, says, probe)
		return nil, err
	}
	d.msg.Metadata = maps.Clone(d.sent)
	produced, err := timed(context.WithValue(d.ctx, historyKey{}, d.failure), c.timeout, d.msg, c.handler)
	switch {
	case err == nil:
		produced = d.own(produced)
		c.breaker.leave(d.id, succeeds, probe)
	case d.ctx.Err() != nil || c.isPermanent(err):
		c.breaker.leave(d.id, says, probe)
	default:
		c.breaker.leave(d.id, fails, probe)
	}
	d.restore()
	return produced, err
}

// charged reports whether an error counts against the message.
func (c *consumer) charged(d *delivery, err error) bool {
	return d.ctx.Err() == nil && !errors.Is(err, errOpen) && !errors.Is(err, errThrottled) && !IsPostponed(err)
}

func (c *consumer) isPermanent(err error) bool { return IsPermanent(err) || c.permanent(err) }

// charge notes a failed attempt.
func (c *consumer) charge(d *delivery, err error) {
	now := time.Now().UTC()
	f := &d.failure
	f.Attempts++
	f.Last = now
	if f.First.IsZero() {
		f.First = now
	}
	f.Reason, f.Stack = clean(c.reason(err), maxReason), ""
	if panicked := (*PanicError)(nil); c.stacks && errors.As(err, &panicked) {
		f.Stack = clean(panicked.Stack, maxStack)
	}
	if c.hooks.Failed != nil {
		c.hooks.Failed(d.msg, *f, err)
	}
}

// notChargedError says that the message is to come again, as if it had not been tried.
type notChargedError struct{ cause error }

func (e *notChargedError) Error() string { return e.cause.Error() }
func (e *notChargedError) Unwrap() error { return e.cause }

// settle brings a message that failed to where it is to be. It returns nil once that is confirmed.
func (c *consumer) settle(d *delivery, err error) error {
	if isA[*notChargedError](err) {
		return c.giveBack(d, err)
	}
	if d.failure.Retries < len(c.delays) && !c.isPermanent(err) {
		return c.toRetry(d)
	}
	return c.toPoison(d)
}

func (c *consumer) toRetry(d *delivery) error {
	delay, topic := c.delays[d.failure.Retries], c.retryTopic(d.failure.Topic, c.group, c.numbers[d.failure.Retries])
	d.failure.Retries++
	d.failure.Due = time.Now().UTC().Add(delay)
	if err := c.publish(topic, d); err != nil {
		return c.giveBack(d, err)
	}
	c.trouble.Store(0)
	c.logger.Info("message failed, will be tried again", c.attrs(d, slog.String("retry_topic", topic))...)
	if c.hooks.Retried != nil {
		c.hooks.Retried(d.msg, d.failure, topic)
	}
	return nil
}

func (c *consumer) toPoison(d *delivery) error {
	err := c.publish(c.poisonTopic, d)
	if errors.Is(err, reliable.ErrRejected) { // what was added may be what is too much
		short := *d
		short.failure.Stack, short.failure.Reason = "", clean(d.failure.Reason, 80)
		err = c.publish(c.poisonTopic, &short)
	}
	if err == nil && c.confirms != nil && !c.poisonUnprocessed {
		err = c.confirms.confirm(d.ctx, d.id)
	}
	if err != nil {
		return c.giveBack(d, err)
	}
	c.trouble.Store(0)
	c.logger.Warn("message cannot be processed, is in the poison topic",
		c.attrs(d, slog.String("poison_topic", c.poisonTopic))...)
	if c.hooks.Poisoned != nil {
		c.hooks.Poisoned(d.msg, d.failure)
	}
	return nil
}

func (c *consumer) attrs(d *delivery, more ...any) []any {
	return append([]any{
		slog.String("id", d.id), slog.String("topic", d.failure.Topic), slog.String("handler", d.failure.Handler),
		slog.Int("attempts", d.failure.Attempts), slog.String("reason", d.failure.Reason),
	}, more...)
}

// publish sends the message, as it came, with its failure. It does not end with the message's context: the process may be
// stopping, and what failed has failed.
func (c *consumer) publish(topic string, d *delivery) error {
	again := message.NewMessage(d.id, d.payload)
	again.Metadata = maps.Clone(d.sent)
	delete(again.Metadata, rabbitDeliveries)
	d.failure.write(again.Metadata)
	again.Metadata[reliable.HeaderCopy] = nextCopy(d.metadata, c.group, d.failure.Handler).String()
	if d.failure.Replays > 0 {
		again.Metadata[reliable.HeaderReplays] = number(d.failure.Replays)
	}
	again.SetContext(context.WithoutCancel(d.ctx))
	return c.publisher.Publish(topic, again)
}

// giveBack waits, so that a message which comes again at once does not come in a hot loop, and returns err. A pause is
// longer the more messages in a row had to be given back.
func (c *consumer) giveBack(d *delivery, err error) error {
	if c.hooks.GivenBack != nil {
		c.hooks.GivenBack(d.msg, err)
	}
	if d.ctx.Err() != nil {
		return err // the process stops; this is not trouble
	}
	pause := c.pauseFirst
	for n := c.trouble.Add(1); n > 1 && pause < c.pauseLongest; n-- {
		pause *= 2
	}
	pause = min(pause, c.pauseLongest)
	c.logger.Warn("message is given back", c.attrs(d, slog.Duration("after", pause), slog.Any("error", err))...)
	_ = sleep(d.ctx, pause) // if it ends early, err says what matters
	return err
}

// restore undoes what an attempt did to the message: some subscribers deliver the same one again.
func (d *delivery) restore() {
	d.msg.SetContext(d.ctx)
	d.msg.UUID, d.msg.Payload, d.msg.Metadata = d.id, d.payload, d.metadata
}

// own returns the produced messages, with a copy in place of the delivered message itself: that one is about to be restored.
func (d *delivery) own(produced []*message.Message) []*message.Message {
	for i, msg := range produced {
		if msg == d.msg {
			again := message.NewMessage(msg.UUID, msg.Payload)
			again.Metadata = msg.Metadata
			produced[i] = again
		}
	}
	return produced
}

// correlate gives what was produced the correlation ID of what it comes from, or its ID where that has none.
func correlate(d *delivery, produced []*message.Message) []*message.Message {
	id := d.sent[correlationID]
	if id == "" {
		id = d.id
	}
	for _, msg := range produced {
		if msg.Metadata[correlationID] == "" && id != "" {
			msg.Metadata.Set(correlationID, id)
		}
	}
	return produced
}
