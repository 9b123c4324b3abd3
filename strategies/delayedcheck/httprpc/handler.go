package httprpc

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/delayedcheck"
)

// Handler answers resend requests with what a [delayedcheck.Resender], the producer's Sender, says. It is safe for
// concurrent use, and needs no path of its own: mount it where the client's address says.
type Handler struct {
	resender delayedcheck.Resender
	keys     keyring
	options  handlerOptions
	replays  replays
	places   chan struct{}
	counts   counts
}

type handlerOptions struct {
	window    time.Duration
	timeout   time.Duration
	maxBody   int64
	inFlight  int
	maxWindow int
	logger    *slog.Logger
}

// HandlerOption configures a [Handler].
type HandlerOption func(*handlerOptions)

// WithWindow sets how far the time of a request may be from this host's clock, both ways. Default 2 minutes; at least a
// second. It bounds for how long a request that somebody took down can be tried elsewhere, so keep hosts' clocks together
// rather than widen it.
func WithWindow(window time.Duration) HandlerOption {
	return func(o *handlerOptions) { o.window = window }
}

// WithHandlerTimeout sets how long reading one request may take, and then how long the resender may. Default 20 seconds
// each; keep it below the client's time limit, so that the client hears of what happened.
func WithHandlerTimeout(timeout time.Duration) HandlerOption {
	return func(o *handlerOptions) { o.timeout = timeout }
}

// WithMaxBody sets how many bytes a request may have. Default 17 MiB: the largest payload by default, and its head.
func WithMaxBody(bytes int64) HandlerOption {
	return func(o *handlerOptions) { o.maxBody = bytes }
}

// WithMaxInFlight sets how many requests are answered at a time; more are refused with 503 and tried again later. Default 32.
func WithMaxInFlight(requests int) HandlerOption {
	return func(o *handlerOptions) { o.inFlight = requests }
}

// WithMaxRemembered sets how many requests are remembered against replays; at about 150 bytes each. When so many came
// within the time that they are remembered for, up to eight windows, more are refused with 503. Default 200,000.
func WithMaxRemembered(requests int) HandlerOption {
	return func(o *handlerOptions) { o.maxWindow = requests }
}

// WithLogger sets where refusals (at Warn, without anything of the request) and failures are logged. Default: nowhere.
func WithLogger(logger *slog.Logger) HandlerOption {
	return func(o *handlerOptions) { o.logger = logger }
}

// NewHandler returns the handler of resender for requests that are signed with one of keys. To rotate keys, give the new
// one to every handler first, then to the clients, then take the old one away. What is wrong is reported together, as
// errors that are [reliable.ErrInvalid].
func NewHandler(resender delayedcheck.Resender, keys []Key, opts ...HandlerOption) (*Handler, error) {
	options := handlerOptions{
		window: 2 * time.Minute, timeout: 20 * time.Second, maxBody: 17 << 20, inFlight: 32, maxWindow: 200_000,
		logger: slog.New(slog.DiscardHandler),
	}
	for _, opt := range opts {
		opt(&options)
	}
	ring, err := newKeyring(keys)
	problems := []error{err}
	refuse := func(wrong bool, field, problem string) {
		if wrong {
			problems = append(problems, reliable.Invalid(field, "%s", problem))
		}
	}
	refuse(resender == nil, "resender", "is nil; give the producer's Sender")
	refuse(options.window < time.Second, "WithWindow", "must be at least a second; times are sent in whole seconds")
	refuse(options.timeout <= 0, "WithHandlerTimeout", "must be positive")
	refuse(options.maxBody <= 0, "WithMaxBody", "must be positive")
	refuse(options.inFlight <= 0, "WithMaxInFlight", "must be positive")
	refuse(options.maxWindow <= 0, "WithMaxRemembered", "must be positive")
	refuse(options.logger == nil, "WithLogger", "is nil; leave it out to log nothing")
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	return &Handler{
		resender: resender, keys: ring, options: options,
		replays: replays{window: options.window, limit: options.maxWindow},
		places:  make(chan struct{}, options.inFlight),
	}, nil
}

// Stats counts what became of requests since the handler was made.
type Stats struct {
	// Answered were asked of the resender, which gave an answer.
	Answered int64
	// Failed were asked of the resender, which gave none.
	Failed int64
	// Forged were signed with no key of ours, or altered.
	Forged int64
	// Expired had a time outside the window.
	Expired int64
	// Replayed were seen before.
	Replayed int64
	// Malformed were signed well and are no check, or were no request of this kind at all.
	Malformed int64
	// Oversize had a body above the limit.
	Oversize int64
	// Busy came when as many as allowed were being answered, or remembered.
	Busy int64
}

type counts struct {
	answered, failed, forged, expired, replayed, malformed, oversize, busy atomic.Int64
}

// Stats returns the counts so far.
func (h *Handler) Stats() Stats {
	c := &h.counts
	return Stats{
		Answered: c.answered.Load(), Failed: c.failed.Load(), Forged: c.forged.Load(), Expired: c.expired.Load(),
		Replayed: c.replayed.Load(), Malformed: c.malformed.Load(), Oversize: c.oversize.Load(), Busy: c.busy.Load(),
	}
}

// ServeHTTP answers one request: 200 with the answer, and otherwise 400, 401 (for whatever is wrong with signature or time:
// the count tells them apart, a stranger learns nothing), 405, 409 (a replay), 413, 500 (the resender gave no answer) or 503.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost || r.URL.RawQuery != "" {
		w.Header().Set("Allow", http.MethodPost)
		h.refuse(w, http.StatusMethodNotAllowed, &h.counts.malformed, "method")
		return
	}
	select {
	case h.places <- struct{}{}:
		defer func() { <-h.places }()
	default:
		h.refuse(w, http.StatusServiceUnavailable, &h.counts.busy, "busy")
		return
	}
	key, known := h.keys[r.Header.Get(headerKey)]
	if !known { // before a byte of the body is read
		h.refuse(w, http.StatusUnauthorized, &h.counts.forged, "forged")
		return
	}
	body, ok := h.read(w, r)
	if ok && h.authentic(w, r, key, body) {
		h.answer(w, r, key, body)
	}
}

func (h *Handler) read(w http.ResponseWriter, r *http.Request) ([]byte, bool) {
	// A server without deadlines would let a stranger keep a place by sending a byte a minute. A recorder in a test, or a
	// wrapped writer, may have none to set.
	err := http.NewResponseController(w).SetReadDeadline(time.Now().Add(h.options.timeout))
	if err != nil && !errors.Is(err, http.ErrNotSupported) {
		h.refuse(w, http.StatusInternalServerError, &h.counts.failed, "deadline")
		return nil, false
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, h.options.maxBody))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		h.refuse(w, http.StatusRequestEntityTooLarge, &h.counts.oversize, "oversize")
		return nil, false
	}
	if err != nil {
		h.refuse(w, http.StatusBadRequest, &h.counts.malformed, "cut off")
		return nil, false
	}
	return body, true
}

func (h *Handler) authentic(w http.ResponseWriter, r *http.Request, key Key, body []byte) bool {
	when, nonce, signature := r.Header.Get(headerTime), r.Header.Get(headerNonce), r.Header.Get(headerSignature)
	if !key.signed(signature, body, schemeRequest, r.Method, r.URL.EscapedPath(), when, nonce) {
		h.refuse(w, http.StatusUnauthorized, &h.counts.forged, "forged")
		return false
	}
	now := time.Now()
	seconds, err := strconv.ParseInt(when, 10, 64)
	if age := now.Sub(time.Unix(seconds, 0)); err != nil || age.Abs() > h.options.window {
		h.refuse(w, http.StatusUnauthorized, &h.counts.expired, "expired; do the clocks of both hosts agree?")
		return false
	}
	switch h.replays.see(signature, now) {
	case seenBefore:
		h.refuse(w, http.StatusConflict, &h.counts.replayed, "replayed")
	case seenFirst:
		return true
	case tooManySeen:
		h.refuse(w, http.StatusServiceUnavailable, &h.counts.busy, "too many remembered")
	}
	return false
}

type response struct {
	Answer string `json:"answer"`
}

func (h *Handler) answer(w http.ResponseWriter, r *http.Request, key Key, body []byte) {
	check, err := delayedcheck.CheckOf(message.NewMessage("", body))
	if err != nil {
		h.refuse(w, http.StatusBadRequest, &h.counts.malformed, "no check")
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), h.options.timeout)
	defer cancel()
	answer, err := h.resender.Resend(ctx, check)
	if err != nil {
		h.options.logger.Warn("resend request has no answer", "id", check.Message.ID, "topic", check.Message.Topic, "error", err)
		h.refuse(w, http.StatusInternalServerError, &h.counts.failed, "no answer")
		return
	}
	reply, err := json.Marshal(response{Answer: answer.String()})
	if err != nil {
		h.refuse(w, http.StatusInternalServerError, &h.counts.failed, "no answer")
		return
	}
	h.counts.answered.Add(1)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set(headerSignature, key.sign(reply, schemeResponse, r.Header.Get(headerNonce)))
	if _, err := w.Write(reply); err != nil {
		h.options.logger.Warn("resend request was answered, and nobody heard it", "id", check.Message.ID, "error", err)
	}
}

func (h *Handler) refuse(w http.ResponseWriter, status int, count *atomic.Int64, reason string) {
	count.Add(1)
	h.options.logger.Warn("resend request refused", "status", status, "reason", reason)
	http.Error(w, http.StatusText(status), status)
}
