package middleware

import (
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/reliable"
)

const (
	// maxReason keeps the reason small enough for every broker's headers, and long enough to be understood.
	maxReason = 1000
	// maxStack is that for the stack.
	maxStack = 4000
	// maxName bounds topic, group and handler, which are names.
	maxName = 255
)

// Failure is what is known of a message that a handler could not process. A message in a retry topic or in a poison topic
// carries it in its metadata; read it with [FailureOf].
type Failure struct {
	// Topic is what the message was consumed from, and where a replay sends it.
	Topic string `json:"topic"`
	// Group is the consumer group, as given to [New]; Handler is the handler's name in its router.
	Group   string `json:"group"`
	Handler string `json:"handler"`
	// Attempts is how often the handler was tried and failed; Retries how often the message was put in a retry topic.
	Attempts int `json:"attempts"`
	Retries  int `json:"retries"`
	// First and Last are when it failed first and last, on the clocks of the processes that tried.
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
	// Due is when a message in a retry topic is to be tried again; zero in a poison topic.
	Due time.Time `json:"due,omitzero"`
	// Reason is the text of the last error, in valid UTF-8, on one line, cut to 1000 bytes.
	Reason string `json:"reason"`
	// Stack says where the handler panicked: functions and lines, innermost first, cut to 4000 bytes.
	Stack string `json:"stack,omitempty"`
	// Replays is how often the message was replayed before this failure.
	Replays int `json:"replays"`
}

// FailureOf returns what a message of a poison topic, or of a retry topic, says of its failure; ok is false if it says
// nothing. Entries that Watermill's own PoisonQueue made are understood as far as they go. Values that make no sense are
// taken for absent.
func FailureOf(msg *message.Message) (f Failure, ok bool) {
	get := msg.Metadata.Get
	if _, ok = msg.Metadata[reliable.HeaderFailureTopic]; !ok {
		f.Topic, ok = msg.Metadata[watermillTopic]
		f.Handler, f.Reason = get(watermillHandler), clean(get(watermillReason), maxReason)
		f.Replays = count(get(reliable.HeaderReplays))
		return f, ok
	}
	return Failure{
		Topic:    get(reliable.HeaderFailureTopic),
		Group:    get(reliable.HeaderFailureGroup),
		Handler:  get(reliable.HeaderFailureHandler),
		Attempts: count(get(reliable.HeaderFailureAttempts)),
		Retries:  count(get(reliable.HeaderFailureRetries)),
		First:    moment(get(reliable.HeaderFailureFirst)),
		Last:     moment(get(reliable.HeaderFailureLast)),
		Due:      moment(get(reliable.HeaderFailureDue)),
		Reason:   clean(get(reliable.HeaderFailureReason), maxReason),
		Stack:    clean(get(reliable.HeaderFailureStack), maxStack),
		Replays:  count(get(reliable.HeaderReplays)),
	}, true
}

// The names that Watermill's PoisonQueue writes.
const (
	watermillReason     = "reason_poisoned"
	watermillTopic      = "topic_poisoned"
	watermillHandler    = "handler_poisoned"
	watermillSubscriber = "subscriber_poisoned"
)

// write adds the failure to metadata; what is zero is left out.
func (f *Failure) write(metadata message.Metadata) {
	for _, header := range []struct{ name, value string }{
		{reliable.HeaderFailureGroup, clean(f.Group, maxName)},
		{reliable.HeaderFailureHandler, clean(f.Handler, maxName)},
		{reliable.HeaderFailureAttempts, number(f.Attempts)},
		{reliable.HeaderFailureRetries, number(f.Retries)},
		{reliable.HeaderFailureFirst, stamp(f.First)},
		{reliable.HeaderFailureLast, stamp(f.Last)},
		{reliable.HeaderFailureDue, stamp(f.Due)},
		{reliable.HeaderFailureReason, clean(f.Reason, maxReason)},
		{reliable.HeaderFailureStack, clean(f.Stack, maxStack)},
	} {
		if header.value != "" {
			metadata[header.name] = header.value
		}
	}
	metadata[reliable.HeaderFailureTopic] = f.Topic
}

// rabbitDeliveries is what RabbitMQ's quorum queues add to a message that they deliver again. It is true of this delivery
// only, and would be a lie on a copy.
const rabbitDeliveries = "x-delivery-count"

// without returns a copy of metadata without what travels for a consumer's sake: the message as it was sent.
func without(metadata message.Metadata) message.Metadata {
	kept := make(message.Metadata, len(metadata)+12)
	for key, value := range metadata {
		if !reliable.Travels(key) {
			kept[key] = value
		}
	}
	return kept
}

// copyMark is [reliable.HeaderCopy]: how often the message was published under its ID on purpose, and by whom, because two
// groups may put the same message in one poison topic.
type copyMark struct {
	number int
	by     string
}

// nextCopy is the mark of the copy that group and handler make of a message with metadata.
func nextCopy(metadata message.Metadata, group, handler string) copyMark {
	before, _, _ := strings.Cut(metadata[reliable.HeaderCopy], " ")
	return copyMark{number: count(before)%maxCount + 1, by: clean(group, maxName) + " " + clean(handler, maxName)}
}

func (c copyMark) String() string { return strings.TrimSpace(strconv.Itoa(c.number) + " " + c.by) }

// maxCount bounds what is read from a header, so that counting on never overflows.
const maxCount = 1_000_000

func count(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > maxCount {
		return 0
	}
	return n
}

func number(n int) string {
	if n <= 0 {
		return ""
	}
	return strconv.Itoa(min(n, maxCount))
}

func moment(text string) time.Time {
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return time.Time{}
	}
	return at.UTC()
}

func stamp(at time.Time) string {
	if at.IsZero() || at.Year() < 1 || at.Year() > 9999 {
		return ""
	}
	return at.UTC().Format(time.RFC3339Nano)
}

// clean makes of text what every broker carries in a header: valid UTF-8 on one line, without blanks at its ends, of at
// most limit bytes.
func clean(text string, limit int) string {
	if len(text) > 4*limit { // far more than can remain: an error text may be a whole response body
		text = text[:4*limit]
	}
	text = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case r == utf8.RuneError || !unicode.IsPrint(r):
			return '?'
		}
		return r
	}, text)
	text = strings.TrimSpace(text)
	if len(text) <= limit {
		return text
	}
	const ellipsis = "..."
	text = strings.ToValidUTF8(text[:limit-len(ellipsis)], "") // the last rune may have been cut
	return strings.TrimSpace(text) + ellipsis
}
