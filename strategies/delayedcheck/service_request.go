package delayedcheck

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strconv"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// DefaultProducer is the producer that a check without the name of one belongs to.
const DefaultProducer = "default"

// A resend request is an envelope in the ledger: its ID is that of the check that it answers, so that a check delivered
// twice makes one request; its topic is the producer, which is what a resend can fail for; its payload is the check. The
// metadata says again what a pass over many requests, and people, need without their payloads.
const (
	requestMessage = "message"
	requestTopic   = "message-topic"
	requestGroups  = "groups"
	requestRound   = "round"
)

// requestOf returns the request that a check with this ID and payload makes, due after delay.
func requestOf(id reliable.ID, check *Check, payload []byte, delay time.Duration) (reliable.Envelope, error) {
	groups, err := json.Marshal(check.Groups)
	if err != nil {
		return reliable.Envelope{}, err
	}
	producer := check.Producer
	if producer == "" {
		producer = DefaultProducer
	}
	return reliable.Envelope{
		ID: id, Topic: producer, Payload: payload, Delay: delay,
		Metadata: map[string]string{
			requestMessage: string(check.Message.ID), requestTopic: check.Message.Topic,
			requestGroups: string(groups), requestRound: strconv.Itoa(check.Round),
		},
	}, nil
}

// awaited says what a request without its payload waits for; false if it is none.
func awaited(metadata map[string]string) (awaiting, bool) {
	a := awaiting{id: reliable.ID(metadata[requestMessage])}
	err := json.Unmarshal([]byte(metadata[requestGroups]), &a.groups)
	return a, err == nil && a.id != "" && len(a.groups) > 0
}

// awaiting is a message and the consumer groups whose confirms are waited for.
type awaiting struct {
	id     reliable.ID
	groups []string
}

// missing returns the groups that have not confirmed.
func (a *awaiting) missing(confirmed map[reliable.ID][]string) (missing []string) {
	for _, group := range a.groups {
		if !slices.Contains(confirmed[a.id], group) {
			missing = append(missing, group)
		}
	}
	return missing
}

// roundID is the ID of the check that follows the resend of a request. It is the same if the resend is repeated, because
// its end could not be recorded: so a message does not get ever more checks.
func roundID(request reliable.ID, round int) reliable.ID {
	sum := sha256.Sum256(binary.BigEndian.AppendUint64([]byte(request), uint64(round))) //nolint:gosec // a round is positive
	sum[6], sum[8] = sum[6]&0x0f|0x80, sum[8]&0x3f|0x80                                 // a UUID of version 8
	text := hex.EncodeToString(sum[:16])
	return reliable.ID(text[:8] + "-" + text[8:12] + "-" + text[12:16] + "-" + text[16:20] + "-" + text[20:])
}

// scheduleNext makes sure that the message of a check that was just sent again is asked about once more. Where the
// scheduler does not take the check, or there is none, the ledger keeps it until it is due.
func (s *Service) scheduleNext(ctx context.Context, request reliable.ID, check *Check) error {
	next := *check
	next.Round++
	env, err := next.Envelope(s.cfg.checkTopic)
	if err != nil {
		return err
	}
	env.ID = roundID(request, next.Round)
	if s.scheduler != nil {
		timed, cancel := context.WithTimeout(ctx, s.cfg.resendTimeout)
		defer cancel()
		err := s.scheduler.Schedule(timed, s.cfg.delay, env)
		if err == nil {
			return nil
		}
		s.cfg.logger.WarnContext(ctx, "the next check could not be scheduled; the ledger keeps it", "id", check.Message.ID,
			"round", next.Round, "error", err)
	}
	kept, err := requestOf(env.ID, &next, env.Payload, s.cfg.delay)
	if err != nil {
		return err
	}
	timed, cancel := context.WithTimeout(ctx, s.cfg.ledgerTimeout)
	defer cancel()
	_, err = s.ledger.Enqueue(timed, reliable.EnqueueRequest{Worker: s.cfg.worker}, kept)
	return err
}
