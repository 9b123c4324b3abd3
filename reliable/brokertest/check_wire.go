package brokertest

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

var wireChecks = []entry{
	{name: "id, key, metadata and payload arrive as they were sent", run: func(tr *trial) {
		tr.roundTrip(plainEnvelopes(tr.Features.MaxPayload), false)
	}},
	{name: "what a header may not carry is rejected rather than changed", run: func(tr *trial) {
		tr.roundTrip(awkwardEnvelopes(), true)
	}},
	{name: "ids are compared byte by byte", run: idsByteByByte},
	{name: "nothing of an attempt is kept or changed once its confirm was received", run: memoryIsTheCallers},
	{
		name:    "messages of one publisher arrive in order",
		applies: func(h *Harness) bool { return h.Features.Order },
		run:     func(tr *trial) { tr.ordered(func(int) string { return "" }) },
	},
	{
		name:    "messages with one key arrive in order",
		applies: func(h *Harness) bool { return h.Features.Order || h.Features.KeyOrder },
		run:     func(tr *trial) { tr.ordered(func(i int) string { return fmt.Sprint("key-", i%3) }) },
	},
}

// plainEnvelopes are what every broker must carry.
func plainEnvelopes(maxPayload int) []reliable.Envelope {
	everyByte := make([]byte, 256)
	for i := range everyByte {
		everyByte[i] = byte(i)
	}
	large := make([]byte, 1<<20)
	if maxPayload > 0 && maxPayload < len(large) {
		large = large[:maxPayload]
	}
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(large)
	many := make(map[string]string)
	for i := range 50 {
		many[fmt.Sprint("name-", i)] = fmt.Sprint("value ", i)
	}
	return []reliable.Envelope{
		{Payload: []byte(`{"order":42}`)},
		{Payload: nil},
		{Payload: everyByte},
		{Payload: large},
		{Payload: []byte("x"), Metadata: map[string]string{"name": "value", "Name": "another", "correlation_id": "7"}},
		{Payload: []byte("x"), Metadata: map[string]string{"greeting": "grüß Gott, 世界 🌍", "spaces": "a  b"}},
		{Payload: []byte("x"), Metadata: map[string]string{"long": strings.Repeat("long ", 800)}},
		{Payload: []byte("x"), Metadata: many},
		{Payload: []byte("x"), Key: "customer-1"},
		{Payload: []byte("x"), Key: "Kundin Ä/7?x=%20"},
		{Payload: []byte("x"), ID: "order/4711#created?v=1"},
		{Payload: []byte("x"), ID: reliable.ID(strings.Repeat("i", reliable.MaxIDBytes))},
		{Payload: []byte("x"), Metadata: map[string]string{
			reliable.HeaderTraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		}},
	}
}

// awkwardEnvelopes are what stores accept and some brokers' headers cannot hold.
func awkwardEnvelopes() []reliable.Envelope {
	return []reliable.Envelope{
		{Metadata: map[string]string{"empty": ""}},
		{Metadata: map[string]string{"trailing space": "value "}},
		{Metadata: map[string]string{" led by a space": " value"}},
		{Metadata: map[string]string{"colon: in name": "a: b"}},
		{Metadata: map[string]string{"line": "one\r\ntwo\nthree"}},
		{Metadata: map[string]string{"tab\tname": "\t"}},
		{Metadata: map[string]string{"größe": "klein"}},
		{Metadata: map[string]string{"x": "1", "X": "2"}},
		{ID: "Bestellung größer"},
		{ID: " led and followed by a space "},
		{ID: "two\nlines"},
		{Key: " key "},
		{Key: "key\r\nkey: key"},
		{Metadata: map[string]string{strings.Repeat("n", 300): "a name longer than a short string"}},
	}
}

// roundTrip sends envelopes and compares what arrives. Those that may be rejected may, but then they must not arrive.
func (tr *trial) roundTrip(envs []reliable.Envelope, mayReject bool) {
	tr.Helper()
	s := tr.open(Options{})
	topic := tr.Topic(tr.T)
	batch := make([]reliable.Attempt, len(envs))
	for i, env := range envs {
		batch[i] = attempt(topic)
		batch[i].Key, batch[i].Metadata, batch[i].Payload = env.Key, env.Metadata, env.Payload
		if env.ID != "" {
			batch[i].ID = env.ID
		}
		if mayReject {
			batch[i].Payload = []byte("x")
		}
	}
	s.publish(batch...)
	if mayReject {
		s.expect(batch, reliable.Acked, reliable.Rejected)
	} else {
		s.expect(batch, reliable.Acked)
	}
	sent := s.acked(batch)
	arrived := make(map[reliable.ID]reliable.Envelope)
	for _, env := range tr.Received(tr.T, topic, len(sent)) {
		arrived[env.ID] = env
	}
	for i := range sent {
		want := sent[i].Envelope
		got, ok := arrived[want.ID]
		if !ok {
			tr.Errorf("acked, and did not arrive under its id: %s", sketch(&want))
			continue
		}
		delete(arrived, want.ID)
		if !tr.Features.Keys {
			got.Key, want.Key = "", ""
		}
		if got.Key != want.Key || !bytes.Equal(got.Payload, want.Payload) || !maps.Equal(got.Metadata, want.Metadata) {
			tr.Errorf("sent %s\narrived %s", sketch(&want), sketch(&got))
		}
	}
	for id, env := range arrived {
		tr.Errorf("arrived, and was not acked under the id %q: %s", id, sketch(&env))
	}
}

// sketch shows an envelope of the suite's own, cut short.
func sketch(env *reliable.Envelope) string {
	text := fmt.Sprintf("id %q, key %q, metadata %.300q, payload of %d bytes", env.ID, env.Key, env.Metadata, len(env.Payload))
	if len(env.Payload) <= 32 {
		text += fmt.Sprintf(" (%q)", env.Payload)
	}
	return text
}

func idsByteByByte(tr *trial) {
	s := tr.open(Options{})
	unique := string(reliable.NewID())
	batch := attempts(tr.Topic(tr.T), 3)
	batch[0].ID, batch[1].ID, batch[2].ID = reliable.ID("a"+unique), reliable.ID("A"+unique), reliable.ID("a"+unique+"-")
	s.send(batch...)
	tr.arrive(batch)
}

// memoryIsTheCallers writes to the batch's slice as soon as Publish has returned, and to payloads and metadata as soon as
// the confirms were received. Before that it looks whether the adapter wrote to them.
func memoryIsTheCallers(tr *trial) {
	s := tr.open(Options{})
	batch := attempts(tr.Topic(tr.T), 50)
	payloads := make([][]byte, len(batch))
	for i := range batch {
		batch[i].Metadata = map[string]string{"name": "value"}
		payloads[i] = slices.Clone(batch[i].Payload)
	}
	handed := slices.Clone(batch)
	s.publish(handed...)
	clear(handed)
	s.expect(batch, reliable.Acked)
	for i := range batch {
		if !bytes.Equal(batch[i].Payload, payloads[i]) || !maps.Equal(batch[i].Metadata, map[string]string{"name": "value"}) {
			fail(tr, "the adapter wrote to the payload or the metadata of attempt %d: %s", i, sketch(&batch[i].Envelope))
		}
		for at := range batch[i].Payload {
			batch[i].Payload[at] = '#'
		}
		batch[i].Metadata["name"] = "overwritten"
	}
	for i, env := range tr.arrive(batch) {
		if bytes.ContainsRune(env.Payload, '#') || env.Metadata["name"] != "value" {
			fail(tr, "message %d arrived with what the caller wrote after its confirm: %s", i, sketch(&env))
		}
	}
}

// ordered publishes one sequence in many calls of Publish, and compares the order within each key.
func (tr *trial) ordered(key func(i int) string) {
	tr.Helper()
	s := tr.open(Options{Window: 64})
	batch := attempts(tr.Topic(tr.T), 500)
	place := make(map[reliable.ID]int, len(batch))
	for i := range batch {
		batch[i].Key = key(i)
		place[batch[i].ID] = i
	}
	for first, size := 0, 1; first < len(batch); first, size = first+size, 1+size*3%50 {
		s.publish(batch[first:min(first+size, len(batch))]...)
	}
	s.expect(batch, reliable.Acked)
	newest := make(map[string]int)
	for _, env := range tr.arrive(batch) {
		i := place[env.ID]
		if last, ok := newest[key(i)]; ok && last > i {
			fail(tr, "key %q: the message published as number %d arrived after number %d", key(i), i, last)
		}
		newest[key(i)] = i
	}
}

// pause is how long the suite waits between two looks at something that gives no signal.
const pause = 20 * time.Millisecond
