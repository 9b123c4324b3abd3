package kafkabroker

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/backend"
)

const defaultPort = "9092"

// Backend opens brokers by URL:
//
//	kafka://user:password@host:9092,host2:9092?sasl=scram-sha-512&tls=true
//
// One broker of the cluster is enough to find the others; name more for when it is down. One without a port is at 9092;
// if any has a port, the last one must. Parameters:
//
//	sasl              the mechanism for user and password: plain, scram-sha-256 or scram-sha-512
//	tls               false (default), true, or skip-verify (encrypted, to whoever answers)
//	tls_ca            file of the PEM certificates to trust in place of the system's, with tls=true
//	tls_cert, tls_key files of the client's own certificate
//	partitions        of the topics that Declare makes; default: the cluster's num.partitions
//	replicas          of the topics that Declare makes; default: the cluster's default.replication.factor
//	partitioning      kafka (default) or watermill, see WithWatermillPartitioning
//	window            see WithWindow; default 1000
//	linger            see WithLinger; default 0
//	confirm_timeout   see WithConfirmTimeout; default 15s
//	close_timeout     see WithCloseTimeout; default 5s
//	max_message       see WithMaxMessageBytes; default 1000012
//	client_id         see WithClientID; default waybill
//	concurrency       how many messages of a partition a subscriber hands over at once, see WithConcurrency; default 1, which
//	                  is watermill-kafka's subscriber. The members of one group must all have 1, or all have more
func Backend() backend.Kind[backend.Broker] {
	return backend.Kind[backend.Broker]{
		Schemes: []string{"kafka"},
		Example: "kafka://user:password@host:9092,host2:9092?sasl=scram-sha-512&tls=true&tls_ca=/etc/ssl/mq.pem&" +
			"tls_cert=/etc/ssl/own.pem&tls_key=/etc/ssl/own.key&partitions=12&replicas=3&partitioning=kafka&window=1000&linger=0s&" +
			"confirm_timeout=15s&close_timeout=5s&max_message=1000012&client_id=shop&concurrency=100",
		Open: func(_ context.Context, u *url.URL) (backend.Broker, error) { return openURL(u) },
	}
}

// opened is a Broker that a URL describes.
type opened struct {
	*Broker
	concurrency int
}

var (
	_ backend.Broker   = opened{}
	_ backend.Pinger   = opened{}
	_ reliable.Wrapper = opened{}
)

func (o opened) Unwrap() any { return o.Broker }

// Subscribe implements [backend.Broker].
func (o opened) Subscribe(group string) (message.Subscriber, error) {
	if group == "" {
		return nil, fmt.Errorf("kafkabroker: subscribe: %w",
			reliable.Invalid("group", "is empty; name the service that consumes, the same in all its processes"))
	}
	if o.concurrency > 1 {
		return o.Subscriber(group, WithConcurrency(o.concurrency))
	}
	return o.Broker.Subscribe(group)
}

func openURL(u *url.URL) (backend.Broker, error) {
	p := backend.ParamsOf(u)
	brokers := brokersOf(p, u)
	if strings.Trim(u.Path, "/") != "" {
		p.Refuse("path", "has no meaning to Kafka; topics are named by the messages")
	}
	opts := append(loginOf(p, u), urlOptions(p)...)
	if config := tlsOf(p); config != nil {
		opts = append(opts, WithTLS(config))
	}
	concurrency, _ := p.Int("concurrency", 1, maxConcurrency)
	if err := p.Err(); err != nil {
		return nil, fmt.Errorf("kafkabroker: open: %w", err)
	}
	b, err := New(brokers, opts...)
	if err != nil {
		return nil, err
	}
	return opened{b, concurrency}, nil
}

func brokersOf(p *backend.Params, u *url.URL) []string {
	if u.Host == "" {
		p.Refuse("host", "is missing; give one broker's at least, as host:port")
		return nil
	}
	brokers := strings.Split(u.Host, ",")
	for i, broker := range brokers {
		host, port, err := net.SplitHostPort(broker)
		if err != nil { // perhaps for want of a port
			if host, port, err = net.SplitHostPort(broker + ":" + defaultPort); err == nil {
				brokers[i] = net.JoinHostPort(host, port)
			}
		}
		if err != nil || host == "" || port == "" {
			p.Refuse("host", "must be host:port, several separated by commas")
			return nil
		}
	}
	return brokers
}

func loginOf(p *backend.Params, u *url.URL) []Option {
	with := map[string]func(user, password string) Option{
		"plain": WithPlain, "scram-sha-256": WithScramSHA256, "scram-sha-512": WithScramSHA512,
	}
	mechanism, given := p.Choice("sasl", "plain", "scram-sha-256", "scram-sha-512")
	user := u.User.Username()
	password, _ := u.User.Password()
	switch {
	case !given && u.User != nil:
		p.Refuse(`parameter "sasl"`, "is missing: user and password need the mechanism by which the brokers ask for them")
	case given && (user == "" || password == ""):
		p.Refuse(`parameter "sasl"`, "needs user and password in the URL")
	case given:
		return []Option{with[mechanism](user, password)}
	}
	return nil
}

func urlOptions(p *backend.Params) []Option {
	var opts []Option
	partitions, replicas := -1, -1
	if n, ok := p.Int("partitions", 1, 100_000); ok {
		partitions = n
	}
	if n, ok := p.Int("replicas", 1, 1000); ok {
		replicas = n
	}
	opts = append(opts, WithTopics(partitions, replicas))
	if how, _ := p.Choice("partitioning", "kafka", "watermill"); how == "watermill" {
		opts = append(opts, WithWatermillPartitioning())
	}
	if n, ok := p.Int("window", 1, maxWindow); ok {
		opts = append(opts, WithWindow(n))
	}
	if d, ok := p.Duration("linger", 0, time.Second); ok {
		opts = append(opts, WithLinger(d))
	}
	if d, ok := p.Duration("confirm_timeout", minConfirmTimeout, time.Hour); ok {
		opts = append(opts, WithConfirmTimeout(d))
	}
	if d, ok := p.Duration("close_timeout", 0, time.Hour); ok {
		opts = append(opts, WithCloseTimeout(d))
	}
	if n, ok := p.Int("max_message", minMaxMessage, maxMaxMessage); ok {
		opts = append(opts, WithMaxMessageBytes(n))
	}
	if id, ok := p.Text("client_id"); ok {
		opts = append(opts, WithClientID(id))
	}
	return opts
}

func tlsOf(p *backend.Params) *tls.Config {
	mode, _ := p.Choice("tls", "false", "true", "skip-verify")
	ca, hasCA := p.Text("tls_ca")
	cert, hasCert := p.Text("tls_cert")
	key, hasKey := p.Text("tls_key")
	encrypted := mode == "true" || mode == "skip-verify"
	if hasCA && mode != "true" {
		p.Refuse(`parameter "tls_ca"`, "needs tls=true: no other mode verifies the brokers")
	}
	if hasCert != hasKey {
		p.Refuse(`parameter "tls_cert"`, "and tls_key belong together; give both or none")
	} else if hasCert && !encrypted {
		p.Refuse(`parameter "tls_cert"`, "needs tls=true or tls=skip-verify")
	}
	if !encrypted {
		return nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: mode == "skip-verify"} //nolint:gosec // as asked for
	if hasCA {
		pem, err := os.ReadFile(ca) //nolint:gosec // the operator names it
		config.RootCAs = x509.NewCertPool()
		if err != nil || !config.RootCAs.AppendCertsFromPEM(pem) {
			p.Refuse(`parameter "tls_ca"`, "must name a readable file with PEM certificates")
		}
	}
	if hasCert && hasKey {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			p.Refuse(`parameter "tls_cert"`, "and tls_key must name readable files with a certificate and its key")
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config
}
