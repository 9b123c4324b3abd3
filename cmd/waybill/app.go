package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/mattn/go-isatty"

	"github.com/waybillmq/waybill/adapters/kafkabroker"
	"github.com/waybillmq/waybill/adapters/mysqlstore"
	"github.com/waybillmq/waybill/adapters/natsbroker"
	"github.com/waybillmq/waybill/adapters/postgresstore"
	"github.com/waybillmq/waybill/adapters/rabbitmqbroker"
	"github.com/waybillmq/waybill/adapters/sqlbroker"
	"github.com/waybillmq/waybill/adapters/sqlitestore"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/backend"
	"github.com/waybillmq/waybill/strategies/tagging"
)

// stores are the stores that this command knows.
func stores() backend.Stores {
	return backend.Stores{mysqlstore.Backend(), postgresstore.Backend(), unchanged(sqlitestore.Backend())}
}

// brokers are the brokers that this command knows.
func brokers() backend.Brokers {
	return backend.Brokers{rabbitmqbroker.Backend(), kafkabroker.Backend(), natsbroker.Backend(), sqlbroker.Backend()}
}

// unchanged opens SQLite as the servers are opened: a file is not made by looking for it, nor its tables.
func unchanged(sqlite backend.Kind[backend.Store]) backend.Kind[backend.Store] {
	open := sqlite.Open
	sqlite.Open = func(ctx context.Context, u *url.URL) (backend.Store, error) {
		parameters, err := url.ParseQuery(u.RawQuery)
		if err != nil {
			return open(ctx, u) // which says so, where to write them anew would lose some
		}
		for _, name := range []string{"create", "migrate"} {
			if !parameters.Has(name) {
				parameters.Set(name, "false")
			}
		}
		as := *u
		as.RawQuery = parameters.Encode()
		return open(ctx, &as)
	}
	return sqlite
}

const (
	storeVariable  = "WAYBILL_STORE"
	brokerVariable = "WAYBILL_BROKER"
)

// app is what the commands share: where to read and write, and what the global flags say.
type app struct {
	in       io.Reader
	out, err io.Writer
	outErr   error // why something could not be written to out

	storeURL, brokerURL string
	format              string
	timeout             time.Duration
}

// setting is the value of a flag, else of the environment.
func setting(flag, variable string) string {
	if flag != "" {
		return flag
	}
	return os.Getenv(variable)
}

// storeAddress is the URL of the store.
func (a *app) storeAddress() (string, error) {
	address := setting(a.storeURL, storeVariable)
	if address == "" {
		return "", usagef("no store is named: set %s or pass --store, for example %s; `waybill help urls` lists them",
			storeVariable, "postgres://user:password@host/database")
	}
	return address, nil
}

// openStore opens the store; the caller closes it.
func (a *app) openStore(ctx context.Context) (backend.Store, error) {
	address, err := a.storeAddress()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	store, err := stores().Open(ctx, address)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: check the path, or make it by `waybill migrate apply`", err)
	}
	return store, err
}

// openBroker makes the broker of the relaying commands; the caller closes it.
func (a *app) openBroker(ctx context.Context) (backend.Broker, error) {
	address := setting(a.brokerURL, brokerVariable)
	if address == "" {
		return nil, usagef("no broker is named: set %s or pass --broker, for example %s; `waybill help urls` lists them",
			brokerVariable, "amqp://user:password@host/vhost")
	}
	return brokers().Open(ctx, address)
}

// checked says, before anything else does, whether the tables can be used.
func (a *app) checked(ctx context.Context, store reliable.Store) error {
	checker, ok := reliable.Ability[reliable.Checker](store)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	return checker.Check(ctx)
}

// withStore calls fn with the store, opened and checked, and closes it.
func (a *app) withStore(ctx context.Context, fn func(store backend.Store) error) error {
	store, err := a.openStore(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = store.Close() }() // nothing is buffered in it
	if err := a.checked(ctx, store); err != nil {
		return err
	}
	return fn(store)
}

// withOperator calls fn with what operates on the store.
func (a *app) withOperator(ctx context.Context, fn func(operator *tagging.Operator) error) error {
	return a.withStore(ctx, func(store backend.Store) error {
		operator, err := tagging.NewOperator(withPatience(store, a.timeout))
		if err != nil {
			return err
		}
		return fn(operator)
	})
}

// bounded is the context of one call to the store.
func (a *app) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, a.timeout)
}

// isTerminal reports whether a person is at the other end. A device that is no terminal, as /dev/null under cron, is
// nobody.
func isTerminal(stream any) bool {
	file, ok := stream.(*os.File)
	return ok && isatty.IsTerminal(file.Fd())
}

// say writes a part of the result. That it could not be written is found at the end.
func (a *app) say(format string, args ...any) {
	if _, err := fmt.Fprintf(a.out, format, args...); err != nil && a.outErr == nil {
		a.outErr = err
	}
}

// ask puts a question, and returns whether the answer is yes.
func (a *app) ask(format string, args ...any) bool {
	_, _ = fmt.Fprintf(a.err, format+" Type yes to go on: ", args...) // who does not see it will not type yes
	answer, _ := bufio.NewReader(a.in).ReadString('\n')
	return strings.TrimSpace(answer) == "yes"
}

// canAsk reports whether there is somebody to be asked.
func (a *app) canAsk() bool { return isTerminal(a.in) && isTerminal(a.err) }

// progress overwrites a line for the one who waits at a terminal.
func (a *app) progress(format string, args ...any) {
	if isTerminal(a.err) {
		_, _ = fmt.Fprintf(a.err, "\r"+format, args...) // as note does
	}
}

// note writes what is for people, beside the result.
func (a *app) note(format string, args ...any) {
	_, _ = fmt.Fprintf(a.err, strings.TrimSuffix(format, "\n")+"\n", args...) // there is nobody left to tell
}
