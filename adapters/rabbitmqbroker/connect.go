package rabbitmqbroker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"strconv"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	// dialTimeout bounds connecting and the handshake, unless the URL says connection_timeout.
	dialTimeout = 10 * time.Second
	// closeHandshake bounds the orderly end of a connection.
	closeHandshake = time.Second
)

// ConnectProblem is what keeps a connection from being made.
type ConnectProblem string

const (
	// Unreachable means that nobody answers at the address, or not as AMQP 0-9-1 does.
	Unreachable ConnectProblem = "unreachable"
	// LoginRefused means that user and password are not accepted.
	LoginRefused ConnectProblem = "login refused"
	// VhostRefused means that the virtual host does not exist, the user may not use it, or a limit of connections is reached.
	VhostRefused ConnectProblem = "virtual host refused"
	// CertificateRefused means that one side does not accept the other's certificate.
	CertificateRefused ConnectProblem = "certificate refused"
)

// ConnectError says why no connection could be made. Its text holds no password.
type ConnectError struct {
	Problem ConnectProblem
	// Address is the broker's host and port.
	Address string
	// Vhost is the virtual host that was asked for.
	Vhost string
	// Cause is what the network or the broker said; an [*amqp091.Error] if it was the broker.
	Cause error
}

func (e *ConnectError) Error() string {
	var remedy string
	switch e.Problem {
	case LoginRefused:
		remedy = "check user and password in the URL"
	case VhostRefused:
		remedy = "create the virtual host or grant the user permissions on it"
	case CertificateRefused:
		remedy = "check the certificates and the server name"
	case Unreachable:
		remedy = "check the address and that the broker is up"
	}
	return fmt.Sprintf("connect to %s, virtual host %q: %s: %v: %s", e.Address, e.Vhost, e.Problem, e.Cause, remedy)
}

// Unwrap returns the cause.
func (e *ConnectError) Unwrap() error { return e.Cause }

// connection is an AMQP connection and the socket below it.
type connection struct {
	*amqp.Connection
	wire *wire

	retired bool // a subscriber begins nothing more on it; only its connector uses this
}

// dial opens a connection, which the broker's lists show by name. It ends with ctx, and leaves nothing behind when it
// fails.
func (s *settings) dial(ctx context.Context, name string) (*connection, error) {
	uri, err := amqp.ParseURI(s.config.Connection.AmqpURI)
	if err != nil {
		return nil, errors.New("the URL cannot be parsed") // the cause would repeat it, password included
	}
	timeout := dialTimeout
	if uri.ConnectionTimeout > 0 {
		timeout = time.Duration(uri.ConnectionTimeout) * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()

	config := s.amqpConfig(name)
	open := config.Dial
	if open == nil {
		open = func(network, address string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		}
	}
	var socket *wire
	handshakeOver := func() bool { return true }
	config.Dial = func(network, address string) (net.Conn, error) {
		conn, err := open(network, address)
		if err != nil {
			return nil, err
		}
		socket = newWire(conn)
		handshakeOver = context.AfterFunc(ctx, socket.abort)
		return socket, nil
	}

	conn, err := amqp.DialConfig(s.config.Connection.AmqpURI, config)
	if !handshakeOver() && err == nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		return &connection{Connection: conn, wire: socket}, nil
	}
	if socket != nil {
		socket.abort()
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("no answer: %w", context.Cause(ctx))
	}
	vhost := config.Vhost
	if vhost == "" {
		vhost = uri.Vhost
	}
	return nil, &ConnectError{
		Problem: connectProblem(err),
		Address: net.JoinHostPort(uri.Host, strconv.Itoa(uri.Port)), Vhost: vhost, Cause: err,
	}
}

// amqpConfig is the config's own, copied where amqp091 would write into it. If it names the connection, name is not used.
func (s *settings) amqpConfig(name string) amqp.Config {
	var config amqp.Config
	if own := s.config.Connection.AmqpConfig; own != nil {
		config = *own
	}
	if s.config.Connection.TLSConfig != nil {
		config.TLSClientConfig = s.config.Connection.TLSConfig
	}
	if config.TLSClientConfig != nil {
		config.TLSClientConfig = config.TLSClientConfig.Clone()
	}
	if len(config.Properties) > 0 {
		config.Properties = maps.Clone(config.Properties)
	} else {
		config.Properties = amqp.NewConnectionProperties()
		config.Properties.SetClientConnectionName(name)
	}
	return config
}

func connectProblem(err error) ConnectProblem {
	var (
		reason    *amqp.Error
		untrusted *tls.CertificateVerificationError
		alert     tls.AlertError
	)
	switch {
	case errors.As(err, &untrusted), errors.As(err, &alert):
		return CertificateRefused
	case errors.Is(err, amqp.ErrSASL), errors.Is(err, amqp.ErrCredentials):
		return LoginRefused
	case errors.Is(err, amqp.ErrVhost):
		return VhostRefused
	case errors.As(err, &reason) && reason.Code == amqp.AccessRefused:
		return LoginRefused
	case errors.As(err, &reason) && (reason.Code == amqp.NotAllowed || reason.Code == amqp.InvalidPath):
		return VhostRefused
	}
	return Unreachable
}

// openLink opens a connection and, on it, a channel in confirm mode.
func (s *settings) openLink(ctx context.Context) (link, *connection, error) {
	conn, err := s.dial(ctx, "waybill publisher")
	if err != nil {
		return link{}, nil, err
	}
	established := context.AfterFunc(ctx, conn.wire.abort)
	blocked := conn.NotifyBlocked(make(chan amqp.Blocking, 16))
	ch, err := conn.Channel()
	if err == nil {
		err = ch.Confirm(false)
	}
	if !established() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		conn.wire.abort()
		return link{}, nil, fmt.Errorf("open a channel: %w", err)
	}
	return link{
		channel: amqpChannel{ch},
		// A full channel would drop returns after a while; more than the window cannot be on their way.
		returns:  ch.NotifyReturn(make(chan amqp.Return, s.window)),
		closed:   ch.NotifyClose(make(chan *amqp.Error, 1)),
		blocked:  blocked,
		together: conn.wire.together,
		abort:    conn.wire.abort,
		close:    conn.end,

		frameSize: conn.Config.FrameSize,
	}, conn, nil
}

// end closes the connection in order, or drops it if the broker does not answer.
func (c *connection) end() {
	// The error says that the connection is closed already, or was dropped; it is over in either case.
	_ = c.CloseDeadline(time.Now().Add(closeHandshake))
	c.wire.abort()
}

// amqpChannel is amqp091's channel as a session sees it.
type amqpChannel struct{ ch *amqp.Channel }

func (c amqpChannel) publish(exchange, key string, mandatory bool, msg *amqp.Publishing) (pending, error) {
	confirmation, err := c.ch.PublishWithDeferredConfirm(exchange, key, mandatory, false, *msg)
	if err != nil {
		return nil, err
	}
	return confirmation, nil
}

func (c amqpChannel) isClosed() bool { return c.ch.IsClosed() }
