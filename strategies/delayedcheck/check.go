package delayedcheck

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/reliable"
)

// Check is the delayed question "was this message processed?", with everything that an answer, or sending the message
// again, needs: the producer keeps nothing of it.
type Check struct {
	// Message is what is asked about, as it was sent or is about to be.
	Message reliable.Envelope
	// Token names the business transaction to the producer's witness.
	Token reliable.Token
	// Committed means that the transaction had committed, or that there was none, when the check left: nobody need be asked.
	Committed bool
	// Groups are the consumer groups whose processed confirms are waited for, 1 to [MaxGroups].
	Groups []string
	// Producer is the name under which the callback service's configuration knows who sends the message again. It is never
	// an address.
	Producer string
	// Round counts the checks of one message; the producer's is 1, and each resend is followed by another.
	Round int
}

const (
	// MaxGroups is how many consumer groups a check waits for at most.
	MaxGroups = 32
	// MaxProducerBytes is how long a producer's name is at most.
	MaxProducerBytes = 128
	// MaxRound is the highest round.
	MaxRound = 1_000_000

	// checkVersion is the version of the format that this package writes.
	checkVersion = 1
)

// checkHead is the first line of a check's payload; the payload of the message follows it as it is.
type checkHead struct {
	Version   int               `json:"v"`
	ID        reliable.ID       `json:"id"`
	Topic     string            `json:"topic"`
	Key       string            `json:"key,omitempty"`
	Metadata  map[string]string `json:"metadata,omitempty"`
	Token     reliable.Token    `json:"token,omitempty"`
	Committed bool              `json:"committed,omitempty"`
	Groups    []string          `json:"groups"`
	Producer  string            `json:"producer,omitempty"`
	Round     int               `json:"round"`
}

// Envelope returns the check as it is scheduled: an envelope to topic, under an ID of its own, because two checks of one
// message (of a retried transaction, of two rounds) are two messages. Its payload is a line of JSON, then the message's
// payload. What is wrong with the check is an error that is [reliable.ErrInvalid].
func (c *Check) Envelope(topic string) (reliable.Envelope, error) {
	if err := c.validate(); err != nil {
		return reliable.Envelope{}, err
	}
	head := c.appendHead(make([]byte, 0, headBytes+c.Message.Size()))
	payload := append(append(head, '\n'), c.Message.Payload...)
	return reliable.Envelope{ID: reliable.NewID(), Topic: topic, Payload: payload}, nil
}

// headBytes is about what a head has beside the message's own texts.
const headBytes = 256

// appendHead appends the JSON of the check's head, the same for the same check. It is written by hand because every
// message pays for it: reflection takes as long as all else that a check is.
func (c *Check) appendHead(to []byte) []byte {
	field := func(name, value string) {
		to = append(append(append(to, `,"`...), name...), `":`...)
		to = appendText(to, value)
	}
	to = strconv.AppendInt(append(to, `{"v":`...), checkVersion, 10)
	field("id", string(c.Message.ID))
	field("topic", c.Message.Topic)
	if c.Message.Key != "" {
		field("key", c.Message.Key)
	}
	if len(c.Message.Metadata) > 0 {
		to = append(to, `,"metadata":{`...)
		for _, name := range slices.Sorted(maps.Keys(c.Message.Metadata)) {
			to = append(appendText(to, name), ':')
			to = append(appendText(to, c.Message.Metadata[name]), ',')
		}
		to[len(to)-1] = '}'
	}
	if c.Token != "" {
		field("token", string(c.Token))
	}
	if c.Committed {
		to = append(to, `,"committed":true`...)
	}
	to = append(to, `,"groups":[`...)
	for _, group := range c.Groups {
		to = append(appendText(to, group), ',')
	}
	to[len(to)-1] = ']'
	if c.Producer != "" {
		field("producer", c.Producer)
	}
	return append(strconv.AppendInt(append(to, `,"round":`...), int64(c.Round), 10), '}')
}

// appendText appends a JSON string. Most texts need no escapes; of others it makes what encoding/json does.
func appendText(to []byte, text string) []byte {
	for i := range len(text) {
		switch b := text[i]; {
		case b < ' ' || b > '~', b == '"', b == '\\', b == '<', b == '>', b == '&':
			quoted, _ := json.Marshal(text) //nolint:errchkjson // of a string it cannot fail
			return append(to, quoted...)
		}
	}
	return append(append(append(to, '"'), text...), '"')
}

// CheckOf returns the check that a message carries. What is no check, or one of a version that this program does not know,
// is an error that is [reliable.ErrInvalid]. The payload is shared with msg.
func CheckOf(msg *message.Message) (Check, error) { return decodeCheck(msg.Payload) }

func decodeCheck(payload []byte) (Check, error) {
	line, body, found := bytes.Cut(payload, []byte{'\n'})
	if !found {
		return Check{}, reliable.Invalid("check", "has no line that tells what it is about; was something else sent to its topic?")
	}
	var head checkHead
	if err := json.Unmarshal(line, &head); err != nil {
		return Check{}, reliable.Invalid("check", "cannot be read: its first line is not the JSON of a check")
	}
	if head.Version != checkVersion {
		return Check{}, reliable.Invalid("check", "is of version %d, this program reads version %d", head.Version, checkVersion)
	}
	check := Check{
		Message: reliable.Envelope{ID: head.ID, Topic: head.Topic, Key: head.Key, Metadata: head.Metadata, Payload: body},
		Token:   head.Token, Committed: head.Committed, Groups: head.Groups, Producer: head.Producer, Round: head.Round,
	}
	return check, check.validate()
}

func (c *Check) validate() error {
	limits := reliable.DefaultLimits()
	limits.Payload = 0 // the broker's and the ledger's own limits hold
	if err := limits.Check(&c.Message); err != nil {
		return err
	}
	switch {
	case c.Message.Delay != 0 || c.Message.Deadline != 0:
		return reliable.Invalid("Message", "has a delay or a deadline; only an outbox keeps those")
	case len(c.Token) > reliable.MaxTokenBytes:
		return reliable.Invalid("Token", "has %d bytes, at most %d are allowed", len(c.Token), reliable.MaxTokenBytes)
	case !printable(string(c.Token)):
		return reliable.Invalid("Token", "must be printable ASCII")
	case len(c.Groups) == 0 || len(c.Groups) > MaxGroups:
		return reliable.Invalid("Groups", "names %d consumer groups, must name 1 to %d", len(c.Groups), MaxGroups)
	case len(c.Producer) > MaxProducerBytes:
		return reliable.Invalid("Producer", "has %d bytes, at most %d are allowed", len(c.Producer), MaxProducerBytes)
	case !utf8.ValidString(c.Producer) || strings.IndexByte(c.Producer, 0) >= 0:
		return reliable.Invalid("Producer", "must be valid UTF-8 without NUL")
	case c.Round < 1 || c.Round > MaxRound:
		return reliable.Invalid("Round", "is %d, must lie between 1 and %d", c.Round, MaxRound)
	}
	for _, group := range c.Groups {
		confirm := reliable.Processed{ID: c.Message.ID, Group: group}
		if err := confirm.Check(); err != nil {
			return err
		}
	}
	return nil
}

func printable(text string) bool {
	for i := range len(text) {
		if text[i] < ' ' || text[i] > '~' {
			return false
		}
	}
	return true
}
