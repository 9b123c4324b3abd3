package sqlbroker

import (
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/waybillmq/waybill/reliable"
)

const (
	// offsetsInfix stands between the prefix and the topic in the name of the table that says how far each group is.
	offsetsInfix = "offsets_"
	// maxTableName is what PostgreSQL cuts longer names to, without a word.
	maxTableName = 63
)

var (
	prefixShape = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,29}$`)
	// topicShape is what watermill-sql takes for a topic: nothing that could end a quoted name.
	topicShape = regexp.MustCompile(`^[A-Za-z0-9\-$:._]+$`)
)

// tables names the tables of topics.
type tables struct {
	prefix string
	quote  string
}

// messages is the quoted name of the table that holds a topic's messages.
func (t tables) messages(topic string) string { return t.quote + t.prefix + topic + t.quote }

// offsets is the quoted name of the table that says how far each group has read a topic.
func (t tables) offsets(topic string) string {
	return t.quote + t.prefix + offsetsInfix + topic + t.quote
}

// delayed is the quoted name of the table that holds what waits for its time.
func (t tables) delayed() string { return t.quote + t.prefix + delayedTable + t.quote }

// check returns the *reliable.InvalidError that says why a topic can have no tables.
func (t tables) check(topic string) error {
	switch longest := maxTableName - len(t.prefix) - len(offsetsInfix); {
	case !topicShape.MatchString(topic):
		return reliable.Invalid("Topic", "%q: must be of letters, digits and - $ : . _, which names of tables are made of",
			printable(topic))
	case len(topic) > longest:
		return reliable.Invalid("Topic", "%q: has %d bytes, names of tables leave room for %d", printable(topic), len(topic), longest)
	case strings.HasPrefix(topic, offsetsInfix):
		return reliable.Invalid("Topic", "%q: begins with %q, as the tables of other topics' offsets do", printable(topic), offsetsInfix)
	case topic == delayedTable:
		return reliable.Invalid("Topic", "%q: is the name of the table in which messages wait", topic)
	}
	return nil
}

// printable cuts a topic for an error.
func printable(topic string) string {
	const enough = 80
	if len(topic) > enough {
		topic = topic[:enough] + "..."
	}
	if !utf8.ValidString(topic) {
		topic = strings.ToValidUTF8(topic, "?")
	}
	return topic
}
