package natsbroker

import (
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/waybillmq/waybill/reliable"
)

// Config says where the server is.
type Config struct {
	// URL of the server, or several of one cluster separated by commas, as nats.Connect takes it. Empty means
	// nats://127.0.0.1:4222, and is right for an embedded server.
	URL string
	// Connection holds options of nats.go: TLS, credentials, a dialer, an embedded server. Reconnecting is not among what
	// they can change: the broker makes a new connection for each one that is lost.
	Connection []nats.Option
}

// Deduplication says which messages a stream takes for copies of each other, within its deduplication window.
type Deduplication uint8

const (
	// DeduplicatePerSubject (default) is for those with the same ID on the same subject. A message that is passed on to
	// another topic under its own ID, as Watermill's routers and poison queues do, is stored there even if one stream
	// holds both. So is one that is published to its own topic again on purpose, which [reliable.HeaderCopy] tells.
	DeduplicatePerSubject Deduplication = iota
	// DeduplicatePerStream is for those with the same ID anywhere in the stream. Nats-Msg-Id is the plain ID, as
	// watermill-nats sends it. Do not use it with retry topics or replays in that stream: they keep the ID, and within the
	// window the stream confirms and drops them.
	DeduplicatePerStream
	// NoDeduplication is for none; no Nats-Msg-Id is sent.
	NoDeduplication
)

// Option configures a Broker.
type Option func(*settings)

type settings struct {
	window         int
	confirmTimeout time.Duration
	reconnectMin   time.Duration
	reconnectMax   time.Duration
	maxPayload     int
	dedup          Deduplication
	subject        func(topic string) string
	domain         string
	streams        []jetstream.StreamConfig
	logger         *slog.Logger
	delaying       bool // it is below a Scheduler
}

func defaults() settings {
	return settings{
		window:         1000,
		confirmTimeout: 10 * time.Second,
		reconnectMin:   50 * time.Millisecond,
		reconnectMax:   2 * time.Second,
		maxPayload:     1 << 20,
		subject:        func(topic string) string { return topic },
		logger:         slog.New(slog.DiscardHandler),
	}
}

// WithWindow sets how many attempts may be handed over without their confirm having been received; default 1000.
// Smaller costs throughput, larger costs memory, makes more attempts unknown when a connection dies, and above a few
// thousand gains nothing.
func WithWindow(attempts int) Option { return func(s *settings) { s.window = attempts } }

// WithConfirmTimeout sets how long an attempt waits for the stream's answer; default 10 s, at least 10 ms. Too short
// makes unknown outcomes, and so duplicates, of what a busy server would have acked; too long keeps the window full
// behind a stream without a leader. A lease must be longer.
func WithConfirmTimeout(d time.Duration) Option { return func(s *settings) { s.confirmTimeout = d } }

// WithReconnectWait sets the pause after the first and, doubling, after further failed attempts to connect; default 50
// ms to 2 s, with jitter. Too short floods a server that has just come up; too long prolongs an outage.
func WithReconnectWait(first, longest time.Duration) Option {
	return func(s *settings) { s.reconnectMin, s.reconnectMax = first, longest }
}

// WithMaxPayload tells the server's max_payload, in bytes, to [Broker.Limits] until a connection was made; default 1
// MiB, the server's own default. Too large lets messages be stored that the broker then rejects.
func WithMaxPayload(bytes int) Option { return func(s *settings) { s.maxPayload = bytes } }

// WithDeduplication sets what a stream takes for a copy; default [DeduplicatePerSubject].
func WithDeduplication(d Deduplication) Option { return func(s *settings) { s.dedup = d } }

// WithSubject sets how a topic becomes a subject; default: they are the same. It must be a pure function.
func WithSubject(of func(topic string) string) Option { return func(s *settings) { s.subject = of } }

// WithDomain sets the JetStream domain whose streams are meant; default none.
func WithDomain(domain string) Option { return func(s *settings) { s.domain = domain } }

// WithStream adds a stream to what [Broker.Declare] makes: on disk, one replica, limited by nothing, with the server's
// deduplication window of 2 minutes. Without subjects it takes the subject that is its own name. It may be given
// several times.
func WithStream(name string, subjects ...string) Option {
	return WithStreamConfig(jetstream.StreamConfig{Name: name, Subjects: subjects})
}

// WithStreamConfig is [WithStream] for streams that need more: replicas, limits, another deduplication window.
func WithStreamConfig(config jetstream.StreamConfig) Option {
	if len(config.Subjects) == 0 && config.Mirror == nil && len(config.Sources) == 0 {
		config.Subjects = []string{config.Name}
	}
	return func(s *settings) { s.streams = append(s.streams, config) }
}

// WithLogger sets where connections made and lost, and what the server complains about, are logged; default nowhere.
func WithLogger(logger *slog.Logger) Option { return func(s *settings) { s.logger = logger } }

func (s *settings) validate() error {
	var problems []error
	refuse := func(field, format string, args ...any) {
		problems = append(problems, reliable.Invalid(field, format, args...))
	}
	if s.window < 1 {
		refuse("WithWindow", "is %d, must be at least 1", s.window)
	}
	if s.confirmTimeout < 10*time.Millisecond {
		refuse("WithConfirmTimeout", "is %v, must be at least 10ms", s.confirmTimeout)
	}
	if s.reconnectMin <= 0 || s.reconnectMax < s.reconnectMin {
		refuse("WithReconnectWait", "is %v to %v, must be above 0 and not end before it begins", s.reconnectMin, s.reconnectMax)
	}
	if s.maxPayload <= headroom {
		refuse("WithMaxPayload", "is %d, must be more than the %d bytes kept for headers", s.maxPayload, headroom)
	}
	if s.dedup > NoDeduplication {
		refuse("WithDeduplication", "is %d, which is none of the constants", s.dedup)
	}
	if s.subject == nil {
		refuse("WithSubject", "is nil")
	}
	if s.logger == nil {
		refuse("WithLogger", "is nil; leave the option out to log nothing")
	}
	if problem := badName(s.domain); s.domain != "" && problem != "" {
		refuse("WithDomain", "%s", problem)
	}
	seen := make(map[string]bool, len(s.streams))
	for _, stream := range s.streams {
		if problem := badName(stream.Name); problem != "" {
			refuse("WithStream", "name %q %s", stream.Name, problem)
		}
		if seen[stream.Name] {
			refuse("WithStream", "name %q is given twice", stream.Name)
		}
		seen[stream.Name] = true
		for _, subject := range stream.Subjects {
			if problem := badSubject(subject, true); problem != "" {
				refuse("WithStream", "subject %q of %q %s", subject, stream.Name, problem)
			}
		}
	}
	return errors.Join(problems...)
}

// badName says what keeps text from being the name of a stream, consumer or domain.
func badName(text string) string {
	switch {
	case text == "":
		return "is empty"
	case strings.ContainsAny(text, ".*>/\\ \t\r\n"):
		return "holds one of . * > / \\ or a space, which no name in JetStream may"
	}
	return ""
}
