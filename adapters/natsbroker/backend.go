package natsbroker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/backend"
)

// Backend opens brokers by URL:
//
//	nats://user:password@host:4222?stream=ORDERS&subjects=orders.>
//
// The scheme is nats or tls; a user without a password is a token. Parameters:
//
//	servers           more servers of the cluster, host:port separated by commas; for when the first one is down
//	creds             file with a user's JWT and seed, in place of user and password
//	tls_ca            file of the PEM certificates to trust in place of the system's
//	tls_cert, tls_key files of the client's own certificate
//
// and those of [OpenBackend].
func Backend() backend.Kind[backend.Broker] {
	return backend.Kind[backend.Broker]{
		Schemes: []string{"nats", "tls"},
		Example: "nats://user:password@host:4222?servers=host2:4222,host3:4222&creds=/etc/nats/shop.creds&tls_ca=/etc/ssl/mq.pem&" +
			"tls_cert=/etc/ssl/own.pem&tls_key=/etc/ssl/own.key&" + BackendParams,
		Open: func(_ context.Context, u *url.URL) (backend.Broker, error) { return openURL(u) },
	}
}

func openURL(u *url.URL) (backend.Broker, error) {
	p := backend.ParamsOf(u)
	if u.Hostname() == "" {
		p.Refuse("host", "is missing; give the server's")
	}
	if strings.Trim(u.Path, "/") != "" {
		p.Refuse("path", "has no meaning to NATS; name the stream by the parameter stream")
	}
	servers := []string{(&url.URL{Scheme: u.Scheme, User: u.User, Host: u.Host}).String()}
	more, _ := p.List("servers")
	for _, address := range more {
		if other, err := url.Parse(u.Scheme + "://" + address); err != nil || other.Host != address || other.Hostname() == "" {
			p.Refuse(`parameter "servers"`, "must be host:port, separated by commas, without scheme and user")
			continue
		}
		servers = append(servers, (&url.URL{Scheme: u.Scheme, User: u.User, Host: address}).String())
	}
	cfg := Config{URL: strings.Join(servers, ",")}
	if file, ok := readable(p, "creds"); ok {
		cfg.Connection = append(cfg.Connection, nats.UserCredentials(file))
	}
	if file, ok := readable(p, "tls_ca"); ok {
		cfg.Connection = append(cfg.Connection, nats.RootCAs(file))
	}
	cert, hasCert := readable(p, "tls_cert")
	key, hasKey := readable(p, "tls_key")
	switch {
	case hasCert && hasKey:
		cfg.Connection = append(cfg.Connection, nats.ClientCert(cert, key))
	case hasCert != hasKey:
		p.Refuse(`parameter "tls_cert"`, "and tls_key belong together; give both or none")
	}
	return OpenBackend(cfg, p)
}

// readable reads the name of a file that can be read.
func readable(p *backend.Params, name string) (string, bool) {
	file, ok := p.Text(name)
	if !ok {
		return "", false
	}
	f, err := os.Open(file) //nolint:gosec // who configures the program names its files
	if err != nil {
		p.Refuse(fmt.Sprintf("parameter %q", name), "must name a file that can be read: %v", err)
		return "", false
	}
	_ = f.Close() // it was only looked at
	return file, true
}

// BackendParams are the parameters of [OpenBackend], as an example.
const BackendParams = "stream=ORDERS&subjects=orders.>&replicas=1&domain=hub&window=1000&confirm_timeout=10s&dedup=subject&" +
	"prefetch=100&concurrency=1&ack_wait=30s&max_ack_pending=1000"

// OpenBackend is [New] with the options that a URL says; for kinds of backends that are built on this one. It asks p for:
//
//	stream            the stream that Declare makes and gives the topics to as subjects; default: a stream for each
//	                  topic that no stream of the server takes
//	subjects          the subjects of that stream besides, separated by commas, wildcards allowed
//	replicas          of the streams that Declare makes; default 1. A server that is alone has no more
//	domain            see WithDomain
//	window            see WithWindow; default 1000
//	confirm_timeout   see WithConfirmTimeout; default 10s
//	dedup             subject (default), stream or none, see WithDeduplication
//
// and for subscribers:
//
//	prefetch          see WithPrefetch; default 100
//	concurrency       see WithConcurrency; default 1
//	ack_wait          see WithAckWait; default 30s
//	max_ack_pending   see WithMaxAckPending; default 1000
func OpenBackend(cfg Config, p *backend.Params) (backend.Broker, error) {
	o := &opened{replicas: 1}
	var opts []Option
	if n, ok := p.Int("window", 1, 1_000_000); ok {
		opts = append(opts, WithWindow(n))
	}
	if d, ok := p.Duration("confirm_timeout", 10*time.Millisecond, time.Hour); ok {
		opts = append(opts, WithConfirmTimeout(d))
	}
	switch dedup, _ := p.Choice("dedup", "subject", "stream", "none"); dedup {
	case "stream":
		opts = append(opts, WithDeduplication(DeduplicatePerStream))
	case "none":
		opts = append(opts, WithDeduplication(NoDeduplication))
	}
	if domain, ok := p.Text("domain"); ok {
		opts = append(opts, WithDomain(domain))
	}
	if n, ok := p.Int("replicas", 1, 5); ok {
		o.replicas = n
	}
	o.stream, _ = p.Text("stream")
	subjects, ok := p.List("subjects")
	if ok && o.stream == "" {
		p.Refuse(`parameter "subjects"`, "needs the name of their stream in the parameter stream")
	}
	if o.stream != "" && ok {
		opts = append(opts, WithStreamConfig(jetstream.StreamConfig{Name: o.stream, Subjects: subjects, Replicas: o.replicas}))
	} else if problem := badName(o.stream); o.stream != "" && problem != "" {
		p.Refuse(`parameter "stream"`, "%s", problem)
	}
	o.subscribing = subscriberParams(p)
	if err := p.Err(); err != nil {
		return nil, fmt.Errorf("natsbroker: open: %w", err)
	}
	var err error
	if o.Broker, err = New(cfg, opts...); err != nil {
		return nil, err
	}
	probe, err := o.Broker.Subscriber("probe", o.subscribing...)
	if err != nil {
		return nil, errors.Join(err, o.Broker.Close())
	}
	return o, probe.Close()
}

func subscriberParams(p *backend.Params) []SubscriberOption {
	var opts []SubscriberOption
	if n, ok := p.Int("prefetch", 1, 1_000_000); ok {
		opts = append(opts, WithPrefetch(n))
	}
	if n, ok := p.Int("concurrency", 1, 1_000_000); ok {
		opts = append(opts, WithConcurrency(n))
	}
	if d, ok := p.Duration("ack_wait", 100*time.Millisecond, 24*time.Hour); ok {
		opts = append(opts, WithAckWait(d))
	}
	if n, ok := p.Int("max_ack_pending", 1, 1_000_000); ok {
		opts = append(opts, WithMaxAckPending(n))
	}
	return opts
}

// opened is a Broker with the streams and subscribers that a URL describes.
type opened struct {
	*Broker
	stream      string
	replicas    int
	subscribing []SubscriberOption
}

var (
	_ backend.Broker   = (*opened)(nil)
	_ backend.Pinger   = (*opened)(nil)
	_ reliable.Wrapper = (*opened)(nil)
)

func (o *opened) Unwrap() any { return o.Broker }

// Subscribe implements [backend.Broker].
func (o *opened) Subscribe(group string) (message.Subscriber, error) {
	s, err := o.Subscriber(group, o.subscribing...)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Declare implements [backend.Broker].
func (o *opened) Declare(ctx context.Context, topics ...string) error {
	if err := o.Broker.Declare(ctx); err != nil {
		return err
	}
	for _, topic := range topics {
		err := o.withStream(ctx, func(ctx context.Context, js jetstream.JetStream) error { return o.declare(ctx, js, topic) })
		if err != nil {
			return fmt.Errorf("natsbroker: declare topic %q: %w", printable(topic), err)
		}
	}
	return nil
}

func (o *opened) declare(ctx context.Context, js jetstream.JetStream, topic string) error {
	subject, err := o.subjectOf(topic)
	if err != nil {
		return err
	}
	config := jetstream.StreamConfig{Name: o.stream, Subjects: []string{subject}, Replicas: o.replicas}
	if config.Name == "" {
		config.Name = fitName(subject, subject)
	}
	// Another process may declare at this moment, and its list of subjects overwrite the one that was just written.
	for try := 1; ; try++ {
		// What a stream takes already would be refused to another one.
		_, err := js.StreamNameBySubject(ctx, subject)
		if !errors.Is(err, jetstream.ErrStreamNotFound) {
			return err
		}
		if err = ensure(ctx, js, config); err != nil && (try == declareTries || ctx.Err() != nil) {
			return err
		}
		pause(ctx, rand.N(time.Duration(try)*declarePause)) //nolint:gosec // jitter is no secret
	}
}

const (
	declareTries = 10
	declarePause = 10 * time.Millisecond
)
