// Package backend opens stores and brokers by URL, so that a program is built once and its environment says what it runs
// on.
//
// There is no global registry. A program lists the adapters that it links:
//
//	stores := backend.Stores{mysqlstore.Backend(), postgresstore.Backend()}
//	store, err := stores.Open(ctx, os.Getenv("STORE_URL"))
//
// An unknown scheme, a parameter that nobody knows, or a value that is wrong is a [reliable.ErrInvalid] that names what is
// possible. No error, and nothing that is logged, holds a user name or password of a URL.
package backend

import (
	"context"
	"io"
	"net/url"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/reliable"
)

// Store is a store that was opened by URL; its Close closes the connections that were opened with it.
type Store interface {
	reliable.Store
	io.Closer
}

// Broker is a broker that was opened by URL: both halves of an adapter, and both sides of Watermill.
type Broker interface {
	reliable.Publisher
	reliable.ConfirmSource
	// Watermill returns the adapter as Watermill's publisher: Publish returns once the broker has confirmed.
	Watermill() message.Publisher
	// Subscribe returns Watermill's subscriber as a member of a consumer group; the caller closes it.
	Subscribe(group string) (message.Subscriber, error)
	// Declare makes what the topics need on the broker (queues, topics, streams, tables), if it is not there.
	Declare(ctx context.Context, topics ...string) error
	io.Closer
}

// Kind is one way to open a T: an adapter, and the URL schemes that mean it.
type Kind[T any] struct {
	// Schemes are the URL schemes, without "://".
	Schemes []string
	// Example is a URL with every parameter, for help texts and errors; it holds no real secret.
	Example string
	// Open opens u, whose scheme is one of Schemes. It may connect, within ctx.
	Open func(ctx context.Context, u *url.URL) (T, error)
}

// Stores are the stores that a program links.
type Stores []Kind[Store]

// Brokers are the brokers that a program links.
type Brokers []Kind[Broker]
