package sqlstore

import (
	"errors"
	"regexp"
	"strings"

	"github.com/waybillmq/waybill/reliable"
)

// WitnessRow says by which row the fate of a transaction is told.
type WitnessRow struct {
	// Table is where the row is, "orders" or "shop.orders"; Column has a unique key of its own.
	Table, Column string
	// Value is what Column holds for the message id; nil means the id itself, as text.
	Value func(id reliable.ID) any
	// Promise is what makes the row's presence mean a commit.
	Promise RowPromise
}

// RowPromise is what nobody but the owner of the business tables can know. All of it must hold, or what the row says is
// wrong, so all of it has to be said.
type RowPromise struct {
	// TransactionInserts: the marked transaction itself inserts the row, and did so before it was marked. A row that it
	// only updated would be found after a rollback too.
	TransactionInserts bool
	// KeyIsUnique: Column has a unique index that holds nothing else.
	KeyIsUnique bool
	// NeverDeletedInTime: nothing deletes the row, and nothing changes the column, as long as somebody may still ask.
	NeverDeletedInTime bool
	// SameWritableNode: the witness asks the node that the transaction wrote on, not a replica, nor another node of a
	// cluster.
	SameWritableNode bool
	// IDDerivesFromRow: the message's id follows from the row, so that a retried transaction has the same.
	IDDerivesFromRow bool
}

var identifierShape = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,62}$`)

// Check returns all that is wrong, and the names quoted by quote.
func (r WitnessRow) Check(quote string) (table, column string, err error) {
	var errs []error
	parts := strings.Split(r.Table, ".")
	for i, part := range parts {
		if len(parts) > 2 || !identifierShape.MatchString(part) {
			errs = append(errs, reliable.Invalid("WitnessRow.Table",
				"is %q, must be a name, or two with a dot between, each of letters, digits and _, not beginning with a digit", r.Table))
			break
		}
		parts[i] = quote + part + quote
	}
	if !identifierShape.MatchString(r.Column) {
		errs = append(errs, reliable.Invalid("WitnessRow.Column",
			"is %q, must be a name of letters, digits and _, not beginning with a digit", r.Column))
	}
	for _, promise := range []struct {
		name string
		made bool
	}{
		{"TransactionInserts", r.Promise.TransactionInserts},
		{"KeyIsUnique", r.Promise.KeyIsUnique},
		{"NeverDeletedInTime", r.Promise.NeverDeletedInTime},
		{"SameWritableNode", r.Promise.SameWritableNode},
		{"IDDerivesFromRow", r.Promise.IDDerivesFromRow},
	} {
		if !promise.made {
			errs = append(errs, reliable.Invalid("WitnessRow.Promise",
				"lacks %s: without it the row does not tell; use a commit marker instead", promise.name))
		}
	}
	return strings.Join(parts, "."), quote + r.Column + quote, errors.Join(errs...)
}

// ValueOf is what the column holds for a message.
func (r WitnessRow) ValueOf(id reliable.ID) any {
	if r.Value == nil {
		return string(id)
	}
	return r.Value(id)
}
