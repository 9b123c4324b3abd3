// Package backend opens stores and brokers by URL, so that a program is built once and its environment says what it runs
// on.
//
// There is no global registry. A program lists the adapters that it links:
//
//	stores := backend.Stores{mysqlstore.Backend(), postgresstore.Backend()}
//	store, err := stores.Open(ctx, os.Getenv("STORE_URL"))
//
// An unknown scheme, a parameter that nobody knows, or a value that is wrong is a [reliable.ErrInvalid] that names what is
// possible; all that is wrong with a URL is reported together. No error holds a password of a URL, or a token that stands
// in a user name's place: what a driver says is redacted, and a malformed URL is described, never repeated. [Redact] makes
// of a URL what may be logged.
package backend

import (
	"context"
	"database/sql"
	"io"
	"net/url"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/reliable"
)

// Store is a store that was opened by URL; its Close closes the connections that were opened with it. Abilities of the
// adapter's store are found by [reliable.Ability], as with every store; SQL stores have [SQL] and [Migrator] as well.
type Store interface {
	reliable.Store
	io.Closer
}

// Broker is a broker that was opened by URL: both halves of an adapter, and both sides of Watermill. Abilities of the
// adapter's broker are found by [reliable.Ability].
type Broker interface {
	reliable.Publisher
	reliable.ConfirmSource
	// Watermill returns the adapter as Watermill's publisher: Publish returns once the broker has confirmed. It has a
	// connection of its own, which its Close closes.
	Watermill() message.Publisher
	// Subscribe returns Watermill's subscriber as a member of a consumer group: every group receives every message, the
	// members of a group share them. The caller closes it, before the Broker.
	Subscribe(group string) (message.Subscriber, error)
	// Declare makes what the topics need on the broker (queues, topics, streams, tables), if it is not there.
	Declare(ctx context.Context, topics ...string) error
	io.Closer
}

// SQL is the ability of an opened store to lend its database to the business: the transactions of this handle are those
// that messages are stored in.
type SQL interface {
	DB() *sql.DB
}

// Migrator is the ability of a store to create its tables or bring them up to date.
type Migrator interface {
	Migrate(ctx context.Context) error
}

// Pinger is the ability of a store or broker to say whether its server answers.
type Pinger interface {
	Ping(ctx context.Context) error
}

// Kind is one way to open a T: an adapter, and the URL schemes that mean it.
type Kind[T any] struct {
	// Schemes are the URL schemes, without "://", in lower case.
	Schemes []string
	// Example is a URL with every parameter, for help texts and errors; it holds no real secret.
	Example string
	// Open opens u, whose scheme is one of Schemes. It may connect, within ctx. It reads u's parameters by [ParamsOf].
	Open func(ctx context.Context, u *url.URL) (T, error)
	// Schema returns the SQL that creates what u needs, without connecting to anything; nil if there is no such thing.
	Schema func(u *url.URL) (string, error)
}

// Stores are the stores that a program links.
type Stores []Kind[Store]

// Open opens the store of rawURL. It connects, and fails if the database cannot be reached; tables are looked at by
// nobody before [Migrator] or [reliable.Checker] is asked, unless the adapter says otherwise.
func (s Stores) Open(ctx context.Context, rawURL string) (Store, error) {
	return open(ctx, "store", s, rawURL)
}

// Schema returns the SQL that creates the tables of rawURL's store, for those who apply it themselves. It connects to
// nothing, so host and password may be made up; the parameters count.
func (s Stores) Schema(rawURL string) (string, error) { return schema("store", s, rawURL) }

// Brokers are the brokers that a program links.
type Brokers []Kind[Broker]

// Open opens the broker of rawURL. A broker that is down is no error: connecting goes on in the background, as that is
// what outages look like; see [Pinger].
func (b Brokers) Open(ctx context.Context, rawURL string) (Broker, error) {
	return open(ctx, "broker", b, rawURL)
}
