package natsbroker

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/waybillmq/waybill/reliable"
)

// Codes of JetStream's errors that are no plain refusal; the server's errors.json lists all.
const (
	codeMessageTooLarge   = 10054 // the stream's max_msg_size
	codeHeaderTooLarge    = 10097
	codeStoreFailed       = 10077 // the text says why
	codeDuplicateInFlight = 10158 // an earlier copy is on its way to the replicas
	codeNotLeader         = 10009
	codeNotAvailable      = 10008
)

// answer is what a reply says of an attempt.
type answer struct {
	outcome reliable.Outcome
	err     error
	nobody  bool // nobody listens to the subject: no stream, or none with a leader
}

// apiError is how JetStream says no.
type apiError struct {
	Code        int    `json:"code"`
	ErrCode     int    `json:"err_code"`
	Description string `json:"description"`
}

func (e *apiError) Error() string { return fmt.Sprintf("jetstream: %s (%d)", e.Description, e.ErrCode) }

var (
	ackBegins  = []byte(`{"stream":"`)
	errorField = []byte(`"error"`)
)

// read takes a publish's answer apart. An ack with Duplicate set is an ack: the stream has the message.
func read(msg *nats.Msg) answer {
	if len(msg.Data) == 0 && msg.Header.Get("Status") == "503" {
		return answer{nobody: true}
	}
	if bytes.HasPrefix(msg.Data, ackBegins) && !bytes.Contains(msg.Data, errorField) {
		return answer{outcome: reliable.Acked} // all but very few are this, and need no parsing
	}
	var body struct {
		Error  *apiError `json:"error"`
		Stream string    `json:"stream"`
	}
	if err := json.Unmarshal(msg.Data, &body); err != nil || body.Error == nil && body.Stream == "" {
		return answer{err: errors.New("natsbroker: the answer is not a stream's: " +
			"something else listens to the subject and replies")}
	}
	if body.Error == nil {
		return answer{outcome: reliable.Acked}
	}
	return answer{outcome: verdict(body.Error), err: fmt.Errorf("natsbroker: %w", body.Error)}
}

// verdict classifies a stream's refusal. A stream that answers with an error has not stored the message, but where the
// answer tells of a change in the cluster, or of a copy on its way, that is no refusal.
func verdict(e *apiError) reliable.Outcome {
	switch e.ErrCode {
	case codeMessageTooLarge, codeHeaderTooLarge:
		return reliable.Rejected
	case codeDuplicateInFlight, codeNotLeader, codeNotAvailable:
		return reliable.Unknown
	case codeStoreFailed:
		switch {
		case strings.Contains(e.Description, "message too large"):
			return reliable.Rejected
		case strings.Contains(e.Description, "store is closed"): // the server is going down
			return reliable.Unknown
		}
	}
	return reliable.Nacked
}

// hopeless reports whether the client refuses a message for what it is, before anything was sent.
func hopeless(err error) bool {
	return errors.Is(err, nats.ErrMaxPayload) || errors.Is(err, nats.ErrBadSubject) || errors.Is(err, nats.ErrBadHeaderMsg) ||
		errors.Is(err, nats.ErrHeadersNotSupported)
}

func rejection(err error, maxPayload int64) error {
	if errors.Is(err, nats.ErrMaxPayload) {
		return fmt.Errorf("natsbroker: %w of %d bytes, headers included; send a reference, or raise max_payload",
			err, maxPayload)
	}
	return fmt.Errorf("natsbroker: %w", err)
}

// probe is a question, asked of the server, for the stream of a subject that nobody answered on. Attempts that come
// back in the meantime wait for the same answer; all stay under their own confirm timeout.
type probe struct{ waiting []uint64 }

// namesSubject is where JetStream tells which streams there are.
func (b *Broker) namesSubject() string { return b.apiPrefix() + "STREAM.NAMES" }

// apiPrefix begins the subjects where JetStream is asked.
func (b *Broker) apiPrefix() string {
	if b.domain != "" {
		return "$JS." + b.domain + ".API."
	}
	return "$JS.API."
}

// probe asks whether f's subject has a stream; the caller holds b.mu.
func (s *session) probe(f *flight) {
	subject := f.msg.Subject
	if p := s.probes[subject]; p != nil {
		p.waiting = append(p.waiting, f.token)
		return
	}
	question, err := json.Marshal(struct {
		Subject string `json:"subject"`
	}{subject})
	if err != nil {
		s.settle(f, reliable.Unknown, err)
		return
	}
	s.b.lastToken++
	token := s.b.lastToken
	s.probes[subject] = &probe{waiting: []uint64{f.token}}
	s.probing[token] = subject
	request := nats.Msg{Subject: s.b.namesSubject(), Reply: s.replyTo(token), Data: question}
	s.outgoing = append(s.outgoing, &flight{token: token, msg: request})
	signal(s.toWrite)
}

// probed takes the server's answer to a probe; the caller holds b.mu.
func (s *session) probed(token uint64, subject string, msg *nats.Msg) {
	var names struct {
		Error   *apiError `json:"error"`
		Total   *int      `json:"total"`
		Streams []string  `json:"streams"`
	}
	switch err := json.Unmarshal(msg.Data, &names); {
	case len(msg.Data) == 0:
		s.unproved(token, subject, errors.New("natsbroker: JetStream does not answer: enable it, or wait for its leader"))
	case err != nil || names.Error == nil && names.Total == nil:
		s.unproved(token, subject, errors.New("natsbroker: no stream answered, nor a server that knows which there are"))
	case names.Error != nil:
		s.unproved(token, subject, fmt.Errorf("natsbroker: no stream answered, and looking for one: %w", names.Error))
	case *names.Total > 0 || len(names.Streams) > 0:
		s.unproved(token, subject, errors.New("natsbroker: the subject's stream did not answer: it has no leader now"))
	default:
		s.conclude(token, subject, reliable.Returned,
			fmt.Errorf("natsbroker: no stream takes subject %q: make one, or give it to WithStream and call Declare", subject))
	}
}

func (s *session) unproved(token uint64, subject string, err error) {
	s.conclude(token, subject, reliable.Unknown, err)
}

func (s *session) conclude(token uint64, subject string, outcome reliable.Outcome, err error) {
	waiting := s.probes[subject].waiting
	delete(s.probes, subject)
	delete(s.probing, token)
	for _, id := range waiting {
		if f := s.flights.byToken[id]; f != nil {
			s.settle(f, outcome, err)
		}
	}
}
