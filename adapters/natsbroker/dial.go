package natsbroker

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// dial connects as cfg says, over a socket that w keeps; adapt has the last word on the options.
func (b *Broker) dial(w *wire, adapt func(*nats.Options)) (*nats.Conn, error) {
	opts := []nats.Option{func(o *nats.Options) error {
		o.Name = "waybill"
		o.PingInterval = 10 * time.Second // nats.go's own two minutes leave a dead server unnoticed for as long
		o.FlusherTimeout = b.confirmTimeout
		return nil
	}}
	opts = append(opts, b.cfg.Connection...)
	opts = append(opts, func(o *nats.Options) error {
		if o.InProcessServer != nil {
			o.InProcessServer = inProcess{o.InProcessServer, w}
		} else {
			inner := o.CustomDialer
			if inner == nil {
				timeout := o.Timeout
				inner = dialerFunc(func(network, address string) (net.Conn, error) {
					return (&net.Dialer{Timeout: timeout}).DialContext(w.ctx, network, address)
				})
			}
			o.CustomDialer = dialer{inner, w}
		}
		adapt(o)
		return nil
	})
	return nats.Connect(b.cfg.URL, opts...)
}

func (b *Broker) jetStream(nc *nats.Conn) (jetstream.JetStream, error) {
	if b.domain != "" {
		return jetstream.NewWithDomain(nc, b.domain)
	}
	return jetstream.New(nc)
}

// wire is the socket below a connection, the one in use now. nats.go holds its lock during a write, so that its own
// Close waits behind a socket that is blocked; closing the socket below it does not.
type wire struct {
	ctx    context.Context
	cancel context.CancelFunc

	mu   sync.Mutex
	conn net.Conn
}

func newWire(parent context.Context) *wire {
	w := &wire{}
	w.ctx, w.cancel = context.WithCancel(parent)
	context.AfterFunc(w.ctx, w.shut)
	return w
}

func (w *wire) keep(conn net.Conn, err error) (net.Conn, error) {
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.ctx.Err(); err != nil {
		_ = conn.Close()
		return nil, err
	}
	w.conn = conn // one before it is dead: a client has one connection at a time
	return conn, nil
}

// cut closes the socket, or what becomes of one that is still being opened.
func (w *wire) cut() {
	w.cancel()
	w.shut()
}

func (w *wire) shut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.conn != nil {
		_ = w.conn.Close() // it is being thrown away
		w.conn = nil
	}
}

type dialerFunc func(network, address string) (net.Conn, error)

func (f dialerFunc) Dial(network, address string) (net.Conn, error) { return f(network, address) }

// dialer keeps what another dialer opens.
type dialer struct {
	nats.CustomDialer
	wire *wire
}

func (d dialer) Dial(network, address string) (net.Conn, error) {
	return d.wire.keep(d.CustomDialer.Dial(network, address))
}

// SkipTLSHandshake is how nats.go asks a dialer whether it does TLS by itself.
func (d dialer) SkipTLSHandshake() bool {
	skipper, ok := d.CustomDialer.(interface{ SkipTLSHandshake() bool })
	return ok && skipper.SkipTLSHandshake()
}

// inProcess keeps what an embedded server opens.
type inProcess struct {
	server nats.InProcessConnProvider
	wire   *wire
}

func (p inProcess) InProcessConn() (net.Conn, error) { return p.wire.keep(p.server.InProcessConn()) }
