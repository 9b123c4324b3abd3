package embedded

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/waybillmq/waybill/adapters/natsbroker"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/backend"
)

// Backend opens brokers by URL that bring their server along:
//
//	nats-embedded:/var/lib/shop/nats?stream=ORDERS
//
// The path is that of the folder the server keeps its data in, relative as nats-embedded:data or absolute. Opening starts
// the server, closing stops it; what it stores is there when it is opened again. Subscribers are closed before the broker.
// One server at a time may use a folder, so one process. Parameters:
//
//	sync_always   true or false (default), see WithSyncAlways
//	listen        port on the loopback interface for other processes, see WithListener; default none
//	max_payload   the largest message in bytes, see WithMaxPayload; default 1048576
//
// and those of [natsbroker.OpenBackend].
func Backend() backend.Kind[backend.Broker] {
	return backend.Kind[backend.Broker]{
		Schemes: []string{"nats-embedded"},
		Example: "nats-embedded:/var/lib/shop/nats?sync_always=false&listen=4222&max_payload=1048576&" + natsbroker.BackendParams,
		Open:    openURL,
	}
}

// opened is a broker and the server that it is the client of.
type opened struct {
	backend.Broker
	server *Server
}

var (
	_ backend.Pinger   = (*opened)(nil)
	_ reliable.Wrapper = (*opened)(nil)
)

func (o *opened) Unwrap() any { return o.Broker }

// Server returns the server, for those who want to stop and restart it.
func (o *opened) Server() *Server { return o.server }

// Ping implements [backend.Pinger].
func (o *opened) Ping(ctx context.Context) error {
	pinger, _ := o.Broker.(backend.Pinger)
	return pinger.Ping(ctx)
}

// Close closes the broker and stops the server.
func (o *opened) Close() error {
	err := o.Broker.Close()
	o.server.Stop()
	return err
}

func openURL(ctx context.Context, u *url.URL) (backend.Broker, error) {
	p := backend.ParamsOf(u)
	folder := u.Path
	if u.Opaque != "" {
		var err error
		if folder, err = url.PathUnescape(u.Opaque); err != nil {
			p.Refuse("path", "has a %% that is no percent-encoding; write it as %%25")
		}
	}
	switch {
	case u.Host != "" || u.User != nil:
		p.Refuse("host", "stands where the path of a folder is expected; write nats-embedded:relative, "+
			"nats-embedded:/absolute or nats-embedded:///absolute")
	case strings.Trim(folder, "/") == "":
		p.Refuse("path", "is missing; name the folder that the server keeps its data in")
	}
	var opts []Option
	if p.Bool("sync_always", false) {
		opts = append(opts, WithSyncAlways())
	}
	if port, ok := p.Int("listen", 1, 65_535); ok {
		opts = append(opts, WithListener(port))
	}
	if n, ok := p.Int("max_payload", 8192, 64<<20); ok {
		opts = append(opts, WithMaxPayload(n))
	}
	server := &late{}
	broker, err := natsbroker.OpenBackend(natsbroker.Config{Connection: []nats.Option{nats.InProcessServer(server)}}, p)
	if err != nil {
		return nil, err
	}
	if server.Server, err = StartServer(ctx, folder, opts...); err != nil {
		return nil, errors.Join(fmt.Errorf("embedded: folder %q: %w", folder, err), broker.Close())
	}
	return &opened{broker, server.Server}, nil
}

// late is a server that is started once all parameters were found right, and before anybody connects.
type late struct{ *Server }
