package sqlbroker

import (
	"context"
	"fmt"
	"strings"

	wsql "github.com/ThreeDotsLabs/watermill-sql/v3/pkg/sql"

	"github.com/waybillmq/waybill/reliable"
)

// Declare makes the tables of topics that are not there: one for the messages, one for how far each group has read. A
// table that is there already is left as it is, and is an error if its payload is not kept byte by byte. Several processes
// may call it at once, and again. The server commits by itself; nobody else's transaction is touched.
func (b *Broker) Declare(ctx context.Context, topics ...string) error {
	schema, offsets := b.dialect.adapters(b.tables, 1)
	for _, topic := range topics {
		if err := b.tables.check(topic); err != nil {
			return fmt.Errorf("sqlbroker: declare: %w", err)
		}
		err := b.dialect.declare(ctx, b.db, statementsOf(schema, offsets, topic), b.tables.messages(topic))
		if err != nil {
			return fmt.Errorf("sqlbroker: declare topic %q: %w", topic, b.told(err))
		}
	}
	return nil
}

// Schema returns the SQL that makes the tables of topics, for those who apply it themselves.
func Schema(kind Dialect, topics []string, opts ...Option) (string, error) {
	s, err := configure(opts)
	if err != nil {
		return "", fmt.Errorf("sqlbroker: schema: %w", err)
	}
	d := dialectOf(kind)
	if d == nil {
		return "", fmt.Errorf("sqlbroker: schema: %w", reliable.Invalid("kind", "is %d, which is none of the constants", kind))
	}
	names := d.tables(s.prefix)
	schema, offsets := d.adapters(names, 1)
	var script strings.Builder
	for _, topic := range topics {
		if err := names.check(topic); err != nil {
			return "", fmt.Errorf("sqlbroker: schema: %w", err)
		}
		for _, statement := range statementsOf(schema, offsets, topic) {
			script.WriteString(statement + ";\n")
		}
	}
	return script.String(), nil
}

// Adapters returns watermill-sql's two adapters for the tables of this package. With them its own publishers and
// subscribers work on these tables; batch is how many messages a subscriber reads at once, see [WithFetch].
func Adapters(kind Dialect, batch int, opts ...Option) (wsql.SchemaAdapter, wsql.OffsetsAdapter, error) {
	s, err := configure(opts)
	if err != nil {
		return nil, nil, fmt.Errorf("sqlbroker: adapters: %w", err)
	}
	d := dialectOf(kind)
	if d == nil || batch < 1 {
		return nil, nil, fmt.Errorf("sqlbroker: adapters: %w",
			reliable.Invalid("kind or batch", "is none of the constants, or less than 1"))
	}
	schema, offsets := d.adapters(d.tables(s.prefix), batch)
	return schema, offsets, nil
}

func statementsOf(schema wsql.SchemaAdapter, offsets wsql.OffsetsAdapter, topic string) []string {
	var statements []string
	for _, query := range append(schema.SchemaInitializingQueries(topic), offsets.SchemaInitializingQueries(topic)...) {
		statements = append(statements, query.Query)
	}
	return statements
}
