package sqlstore

// Class is what an error of a database means to a store.
type Class int

const (
	// Lost means that the answer is not known: what was asked may or may not have happened. Whatever did not come from the
	// server is this.
	Lost Class = iota
	// Refused means that the server, or the driver before it sent anything, said no: nothing happened.
	Refused
	// Duplicate is a refusal because the primary key exists.
	Duplicate
	// Conflict is a refusal that a repetition of the transaction heals: a deadlock, a serialization failure.
	Conflict
	// Missing is a refusal because a table or column does not exist.
	Missing
)

// Dialect is what differs between databases.
type Dialect struct {
	// Package begins every error.
	Package string
	// Arrays says that lists are passed as arrays, and not as a placeholder for each element.
	Arrays bool
	// InsertRows and InsertBytes bound one INSERT into the outbox; ListRows bounds the lists of all other statements.
	InsertRows, InsertBytes, ListRows int
	// Classify says what an error means, [Lost] if nothing else.
	Classify func(error) Class
	// Ended reports whether a refused statement has taken the whole transaction with it.
	Ended func(error) bool
	// Explicit says that even a single statement is given a transaction of its own, because the store takes part in who
	// may write when.
	Explicit bool
	// Pieces says that a statement costs no round trip: what a list holds is then left to several that are kept prepared,
	// rather than to one that is parsed each time.
	Pieces bool
	// Savepoint, Release and RollbackTo are followed by a name.
	Savepoint, Release, RollbackTo string
	Statements
}

// Statements are the SQL of a store. The comments give the parameters in the order of their placeholders; a name in
// brackets is a list, several beside one another are the columns of one list.
type Statements struct {
	// Insert stores rows: [id] [topic] [okey] [metadata] [payload] [size] [stored_at] [moves] [due] [leased] [deadline]
	// [worker]. stored_at is relative to now, and gives the rows of one batch an order; so is due where moves is 1, not
	// where it is 0. leased is 1 or 0, and so are fence, attempts and the flag; without arrays it is given for each of the
	// three.
	Insert Statement
	// InsertAlike is Insert of rows that differ only in some columns: okey, moves, due, leased three times, deadline, worker,
	// [id] [topic] [metadata] [payload] [size] [stored_at]; empty where fewer parameters cost no less.
	InsertAlike Statement
	// InsertSame is InsertAlike of rows of one topic without metadata: topic, okey, metadata, bytes, moves, due, leased three
	// times, deadline, worker, [id] [payload] [stored_at]. bytes is what size has beside the lengths of id and payload.
	InsertSame Statement
	// InsertAt is Insert for many rows, without moves and with absolute times, of which Clock is the origin; empty where
	// the time costs nothing. Clock returns the time.
	InsertAt, Clock Statement
	// InsertSkipping is Insert that skips the IDs that exist and returns those that were stored, for databases where a
	// failed statement takes the transaction with it; empty for others. InsertOneSkipping is the same for one row, of which
	// the parameters are no lists: most business transactions have one message.
	InsertSkipping, InsertOneSkipping Statement
	// InsertLanes queues keyed rows, in the order given: [lane] [id] [delayed] [delay]. ready_at is now * delayed +
	// delay, where delayed is 1, or 0 if there is no delay.
	InsertLanes Statement
	// Existing reads rows with their payload: [id]. It sees what others have committed by now, also where the snapshot of
	// the caller's transaction is older.
	Existing Statement
	// Lookup reads rows with their payload, without a lock: [id].
	Lookup Statement
	// Delete deletes rows: [id].
	Delete Statement

	// Look returns, without a lock, whether a lane row is fresh, and whether a row is due.
	Look Statement
	// Pick locks what has been due since from, oldest first, and skips what is locked: inline, from, limit. A payload is read
	// along if the row's size is at most inline. Not needed where there is Take.
	Pick Statement
	// Take is Pick, without inline, and Lease in one: limit, lease, worker, maxBytes, from. It leases the first row and as
	// many after it as have no more than maxBytes together, and returns {columns}, payload, {now} of them in any order, with
	// the due that they had before; empty where there is no such statement.
	Take Statement
	// Payloads reads id, payload: [id].
	Payloads Statement
	// Lease takes rows: lease, worker, [id].
	Lease Statement

	// PromotionLock returns a row if nobody else is promoting.
	PromotionLock Statement
	// Fresh locks fresh lane rows and skips what is locked: after, limit. It returns seq, lane, id, ready_at, now.
	Fresh Statement
	// Heads returns the lanes that have a head, without a lock: [lane]. TryHeads locks them, skipping what is locked.
	Heads, TryHeads Statement
	// HeadOf returns lane and id of heads, without a lock: [lane].
	HeadOf Statement
	// TryParked locks pending parked rows, skipping what is locked, and returns id, topic, key: [id].
	TryParked Statement
	// LockHeads returns lane, seq, id: [lane].
	LockHeads Statement
	// Order reads lanes in transactions of the store's own, OrderInside in those of its users, where a plain read may see
	// less than was committed by now. Isolation returns whether a user's transaction sees all of that; empty where
	// OrderInside does in every transaction.
	Order, OrderInside OrderReads
	Isolation          Statement
	// WriteHeads inserts or replaces heads: [lane] [seq] [id].
	WriteHeads Statement
	// DeleteHeads deletes heads: [lane]. DeleteLanes deletes lane rows: [seq].
	DeleteHeads, DeleteLanes Statement
	// MarkLanes makes lane rows no longer fresh: [seq].
	MarkLanes Statement
	// Ready makes parked rows due at a time, or now if that is later: at, [id].
	Ready Statement

	// Confirm records acks of the newest lease: whether unkeyed, fence, [id].
	Confirm Statement
	// Lock locks rows and reads them, without their payload: [id].
	Lock Statement
	// Write writes what decisions change: [id] [status] [due] [attempts] [failures] [failing_since] [flags] [acked_by].
	Write Statement
	// Overrule writes what people decide: [id] [status] [due] [fence] [attempts] [failures] [failing_since] [flags]
	// [deadline].
	Overrule Statement
	// NoteDecisions writes who decided: [id] [fence] [action] [who] [why] [at]. Decisions returns id, fence, action, who,
	// why, at, now, in the order of fences: [id]. ForgetDecisions deletes them: [id].
	NoteDecisions, Decisions, ForgetDecisions Statement
	// Past returns id, fence, outcome, charged, decided of attempts: [id]. decided is the status that was asked for.
	Past Statement
	// Remember writes history, replacing what is there: [id] [fence] [entry] [outcome] [charged] [decided] [reason]
	// [worker] [at].
	Remember Statement
	// Trim deletes all history of an id but the newest: the id, twice, and how many to keep - 1.
	Trim Statement
	// History returns id, fence, entry, outcome, charged, reason, worker, at, now, oldest first: [id].
	History Statement
	// Forget deletes history: [id].
	Forget Statement

	// Refuse opens a hold or counts on it: topic, delay, delay.
	Refuse Statement
	// Holds returns topic, slot, refusals, opened_at, next_probe, now of all holds; Hold of one: topic.
	Holds, Hold Statement
	// TryHold locks one, skipping what is locked; LockHold waits: topic. ShareHolds locks against removal: [topic], and
	// returns topic, slot.
	TryHold, LockHold, ShareHolds Statement
	// ProbeLater sets the next probe: delay, topic.
	ProbeLater Statement
	// Unhold deletes a hold: topic.
	Unhold Statement
	// PickHeld locks the rows of a slot, oldest first, skipping what is locked, and reads them without their payload: due,
	// limit.
	PickHeld Statement
	// AnyHeld returns whether a slot has rows: due.
	AnyHeld Statement
	// HeldSince returns the ids of a slot's rows that have been failing for long, without a lock: due, waited, limit.
	HeldSince Statement
	// ReleaseHeld makes rows due now: [id].
	ReleaseHeld Statement

	// PickFailed returns the ids of failed rows that are due, oldest first, without a lock: [topic], limit.
	PickFailed Statement
	// TryFailed locks those that are still failed and due, oldest first, skipping what is locked: [id].
	TryFailed Statement
	// LeaseFailed takes failed rows: lease, worker, [id].
	LeaseFailed Statement

	// PickSettled locks rows of a final status by age, skipping what is locked: status, olderThan, limit. It returns id,
	// flags.
	PickSettled Statement

	// Stats returns topic, status, count, oldest stored_at, now of what is pending, failed, compensated or discarded.
	Stats Statement

	// ListPending, ListSettled and ListTopic walk through what is pending, what is not, and what of that is not confirmed
	// and of one topic; the latter is empty without an index for it.
	ListPending, ListSettled, ListTopic Walk
	// Glance reads rows without their payload and without a lock: [id].
	Glance Statement
	// HistorySays and DecisionsSay return the ids in whose history, or decisions, a text occurs: [id], text.
	HistorySays, DecisionsSay Statement

	// LockChore returns worker, until, now: name.
	LockChore Statement
	// AddChore inserts a term: name, worker, lease; SetChore changes it: worker, lease, name; EndChore ends it: name.
	AddChore, SetChore, EndChore Statement

	// Receive records a message in the inbox: group, id. It affects no row, or fails as a duplicate, if it is there.
	Receive Statement
	// PurgeInbox deletes the oldest entries: olderThan, limit.
	PurgeInbox Statement
	// StoreProcessed stores processed confirms and skips those that are there: [id] [group].
	StoreProcessed Statement
	// ProcessedBy returns id, group: [id].
	ProcessedBy Statement
	// PurgeProcessed deletes the oldest confirms: olderThan, limit.
	PurgeProcessed Statement
	// Mark inserts a commit marker: token, at.
	Mark Statement
	// Marked returns dead, without a lock: token. Bury puts a tombstone where no marker is: token. It affects no row, or
	// fails as a duplicate, if one is there.
	Marked, Bury Statement
	// PurgeMarkers deletes the oldest markers and tombstones: olderThan, limit.
	PurgeMarkers Statement

	Withholding

	// Version returns the newest version, and the oldest program that can use it.
	Version Statement
}

// OrderReads find out how lanes go on.
type OrderReads struct {
	// Next returns the first row of each lane that has a head: seq, lane, id, ready_at, now: [lane]. Inside a user's
	// transaction there is one lane only.
	Next Statement
	// Line returns the first rows of a lane, as Next does: lane, limit.
	Line Statement
	// Known returns id, topic, key of rows that are pending: [id].
	Known Statement
}

// Walk is a list in the order of due, order, topic, id, where order tells rows of one due apart. Both statements return
// id, topic, due, order, stored_at, now.
type Walk struct {
	// Topic says that a topic follows the status.
	Topic bool
	// After returns what is due after a place: status, topic, due, limit.
	After Statement
	// Same returns what has the due of a place and comes after it: status, topic, due, order (twice), topic (twice), id,
	// limit.
	Same Statement
}

// Withholding is the SQL for what waits for business transactions in another database.
type Withholding struct {
	// Withhold keeps envelopes back: [ticket] [source] [id] [token] [topic] [okey] [metadata] [payload] [size] [delay]
	// [deadline] [patience].
	Withhold Statement
	// PickUndecided locks what is withheld and may be asked about, the longest due first, skipping what is locked, and
	// returns ticket, size: source, limit. LeaseUndecided takes it: lease, [ticket]. AskLater gives it back: delay, [ticket].
	PickUndecided, LeaseUndecided, AskLater Statement
	// Withheld reads what is withheld: [ticket]; LockWithheld locks it: [id]. They return ticket, source, id, token, topic,
	// okey, metadata, payload, delay, deadline, stored_at, asked, now.
	Withheld, LockWithheld Statement
	// LockTickets locks tickets and returns those that are there; DeleteTickets deletes them: [ticket].
	LockTickets, DeleteTickets Statement
	// WithheldOf and ListWithheld, which has no payload, return ticket, id, topic, okey, metadata, payload, deadline, ask_at,
	// stored_at, now: [id], in the order of tickets; or after a ticket, limit.
	WithheldOf, ListWithheld Statement
	// CountWithheld returns topic, count, oldest stored_at, now.
	CountWithheld Statement
}
