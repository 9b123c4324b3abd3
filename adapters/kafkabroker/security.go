package kafkabroker

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/sasl"
	saslplain "github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// The SASL mechanisms, by the names that they have on the wire.
const (
	plain       = sarama.SASLTypePlaintext
	scramSHA256 = sarama.SASLTypeSCRAMSHA256
	scramSHA512 = sarama.SASLTypeSCRAMSHA512
)

// login is how to tell the brokers who we are.
type login struct{ mechanism, user, password string }

func withLogin(mechanism, user, password string) Option {
	return func(s *settings) { s.login = &login{mechanism, user, password} }
}

func (l *login) check(bad func(field, format string, args ...any)) {
	if l.user == "" || l.password == "" {
		bad("SASL "+l.mechanism, "lacks a user or a password")
	}
}

// sasl is the login as franz-go takes it.
func (l *login) sasl() sasl.Mechanism {
	auth := scram.Auth{User: l.user, Pass: l.password}
	switch l.mechanism {
	case scramSHA256:
		return auth.AsSha256Mechanism()
	case scramSHA512:
		return auth.AsSha512Mechanism()
	}
	return saslplain.Auth{User: l.user, Pass: l.password}.AsMechanism()
}

// secure sets login, TLS and dialing of a sarama client.
func (s *settings) secure(config *sarama.Config) {
	if s.login != nil {
		config.Net.SASL.Enable = true
		config.Net.SASL.Mechanism = sarama.SASLMechanism(s.login.mechanism)
		config.Net.SASL.User, config.Net.SASL.Password = s.login.user, s.login.password
		config.Net.SASL.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient { return &scramClient{mechanism: s.login.sasl()} }
	}
	// Our own dialer puts TLS on top, so sarama must not do it again.
	config.Net.Proxy.Enable = true
	config.Net.Proxy.Dialer = saramaDialer{s}
}

// connect makes a connection, encrypted if that was asked for.
func (s *settings) connect(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, max(s.step(), time.Second))
	defer cancel()
	conn, err := s.dial(ctx, network, address)
	if err != nil || s.tls == nil {
		return conn, err
	}
	config := s.tls.Clone()
	if config.ServerName == "" {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, errors.Join(err, conn.Close())
		}
		config.ServerName = host
	}
	secured := tls.Client(conn, config)
	if err := secured.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return secured, nil
}

// saramaDialer makes sarama's connections.
type saramaDialer struct{ s *settings }

func (d saramaDialer) Dial(network, address string) (net.Conn, error) {
	return d.s.connect(context.Background(), network, address)
}

// scramClient is franz-go's SCRAM as sarama takes one, which has none of its own.
type scramClient struct {
	mechanism sasl.Mechanism
	session   sasl.Session
	first     []byte
	done      bool
}

func (c *scramClient) Begin(string, string, string) error {
	var err error
	c.session, c.first, err = c.mechanism.Authenticate(context.Background(), "")
	return err
}

func (c *scramClient) Step(challenge string) (string, error) {
	if challenge == "" {
		return string(c.first), nil
	}
	done, response, err := c.session.Challenge([]byte(challenge))
	c.done = done
	return string(response), err
}

func (c *scramClient) Done() bool { return c.done }
