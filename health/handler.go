package health

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// Handler answers probes. It is safe for concurrent use, starts nothing of its own and needs no Close.
//
//	GET /live    200: the process answers. It asks nobody: a restart repairs neither a database nor a broker.
//	GET /ready   200, or 503 while the process is unavailable.
//	GET /health  200, or 503 while it is unavailable or degraded: for a monitor that calls somebody.
//
// Each answers with a [Report] as JSON.
type Handler struct {
	cfg    config
	probes []*probe
	mux    *http.ServeMux

	mu    sync.Mutex
	last  *answers
	asked chan struct{} // closed when the asking that is under way is over; nil if none is
}

// answers are what store and broker said last.
type answers struct {
	at      time.Time
	reasons []Reason
}

// New returns a handler for a process on store. It does no I/O.
//
// All that is wrong with the options is reported together, as errors that are [reliable.ErrInvalid].
func New(store reliable.Store, opts ...Option) (*Handler, error) {
	if store == nil {
		return nil, fmt.Errorf("health: new: %w", reliable.Invalid("store", "must not be nil"))
	}
	cfg, err := newConfig(opts)
	if err != nil {
		return nil, err
	}
	h := &Handler{cfg: cfg, probes: probesOf(&cfg, store), mux: http.NewServeMux()}
	h.mux.HandleFunc("GET /live", func(w http.ResponseWriter, _ *http.Request) {
		write(w, http.StatusOK, reportOf(time.Now(), nil))
	})
	h.mux.HandleFunc("GET /ready", func(w http.ResponseWriter, r *http.Request) {
		h.answer(w, r, func(s Status) bool { return s != Unavailable })
	})
	h.mux.HandleFunc("GET /health", func(w http.ResponseWriter, r *http.Request) {
		h.answer(w, r, func(s Status) bool { return s == OK })
	})
	return h, nil
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.mux.ServeHTTP(w, r) }

func (h *Handler) answer(w http.ResponseWriter, r *http.Request, good func(Status) bool) {
	report, code := h.Report(r.Context()), http.StatusOK
	if !good(report.Status) {
		code = http.StatusServiceUnavailable
	}
	write(w, code, report)
}

func write(w http.ResponseWriter, code int, report Report) {
	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(report) //nolint:errchkjson // a report can be encoded; who asked may be gone
}

// Report says how the process is, for programs that have no use for HTTP. It returns within the timeout, also if ctx ends
// before; store and broker are asked if nobody has asked them for the interval.
func (h *Handler) Report(ctx context.Context) Report {
	now := h.current(ctx)
	reasons := append([]Reason(nil), now.reasons...)
	if h.cfg.relay != nil && !h.cfg.relay.Running() {
		reasons = append(reasons, Reason{Code: RelayStopped, Text: "the relay does not run in this process"})
	}
	return reportOf(now.at, reasons)
}

// current returns answers that are no older than the interval. Of those who find them older, one asks and the others wait
// for it.
func (h *Handler) current(ctx context.Context) answers {
	h.mu.Lock()
	if h.last != nil && time.Since(h.last.at) < h.cfg.interval {
		defer h.mu.Unlock()
		return *h.last
	}
	if asked := h.asked; asked != nil {
		h.mu.Unlock()
		select {
		case <-asked:
		case <-ctx.Done():
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.last == nil { // ctx ended before the first answer
			return answers{time.Now(), []Reason{{Code: StoreUnreachable, Text: noAnswer}}}
		}
		return *h.last
	}
	asked := make(chan struct{})
	h.asked = asked
	h.mu.Unlock()

	fresh := answers{at: time.Now()}
	var errs []error
	fresh.reasons, errs = ask(h.probes, h.cfg.timeout)

	h.mu.Lock()
	defer h.mu.Unlock()
	h.note(&fresh, errs)
	h.last, h.asked = &fresh, nil
	close(asked)
	return fresh
}

// note logs a change of the status; the caller holds h.mu.
func (h *Handler) note(fresh *answers, errs []error) {
	before, after := OK, reportOf(fresh.at, fresh.reasons).Status
	if h.last != nil {
		before = reportOf(h.last.at, h.last.reasons).Status
	}
	if before == after {
		return
	}
	codes := make([]Code, 0, len(fresh.reasons))
	for _, reason := range fresh.reasons {
		codes = append(codes, reason.Code)
	}
	h.cfg.logger.Warn("health changed", "from", before, "to", after, "reasons", codes, "errors", errs)
}
