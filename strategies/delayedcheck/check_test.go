package delayedcheck_test

import (
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/delayedcheck"
)

func aCheck() delayedcheck.Check {
	return delayedcheck.Check{
		Message: reliable.Envelope{
			ID: "order-1", Topic: "orders", Key: "customer-7", Payload: []byte("line\nline\x00\xff"),
			Metadata: map[string]string{"type": "Placed", "quote": "\"\n"},
		},
		Token: "pg:1:2:3", Committed: true, Groups: []string{"billing", "shipping"}, Producer: "shop", Round: 2,
	}
}

func TestCheck_travelsWhole(t *testing.T) {
	check := aCheck()
	env, err := check.Envelope("checks")
	require.NoError(t, err)
	assert.Equal(t, "checks", env.Topic)

	back, err := delayedcheck.CheckOf(env.Message())
	require.NoError(t, err)
	assert.Equal(t, check, back)

	again, err := check.Envelope("checks")
	require.NoError(t, err)
	assert.NotEqual(t, env.ID, again.ID, "two checks of one message are two messages")
}

func TestCheck_refusesWhatCannotBeAskedAbout(t *testing.T) {
	for name, spoil := range map[string]func(*delayedcheck.Check){
		"no id":            func(c *delayedcheck.Check) { c.Message.ID = "" },
		"no topic":         func(c *delayedcheck.Check) { c.Message.Topic = "" },
		"invalid UTF-8":    func(c *delayedcheck.Check) { c.Message.Metadata = map[string]string{"a": "\xff"} },
		"delayed":          func(c *delayedcheck.Check) { c.Message.Delay = 1 },
		"long token":       func(c *delayedcheck.Check) { c.Token = reliable.Token(strings.Repeat("t", reliable.MaxTokenBytes+1)) },
		"token of control": func(c *delayedcheck.Check) { c.Token = "a\nb" },
		"no group":         func(c *delayedcheck.Check) { c.Groups = nil },
		"empty group":      func(c *delayedcheck.Check) { c.Groups = []string{""} },
		"many groups":      func(c *delayedcheck.Check) { c.Groups = make([]string, delayedcheck.MaxGroups+1) },
		"long producer":    func(c *delayedcheck.Check) { c.Producer = strings.Repeat("p", delayedcheck.MaxProducerBytes+1) },
		"producer of NUL":  func(c *delayedcheck.Check) { c.Producer = "a\x00" },
		"round 0":          func(c *delayedcheck.Check) { c.Round = 0 },
	} {
		t.Run(name, func(t *testing.T) {
			check := aCheck()
			spoil(&check)
			_, err := check.Envelope("checks")
			assert.ErrorIs(t, err, reliable.ErrInvalid)
		})
	}
}

func FuzzCheckOf(f *testing.F) {
	check := aCheck()
	env, err := check.Envelope("checks")
	require.NoError(f, err)
	f.Add(env.Payload)
	f.Add([]byte("{}\n"))
	f.Add([]byte(`{"v":2}` + "\n"))
	f.Add([]byte("no line"))
	f.Fuzz(func(t *testing.T, payload []byte) {
		check, err := delayedcheck.CheckOf(message.NewMessage("c", payload))
		if err != nil {
			assert.ErrorIs(t, err, reliable.ErrInvalid)
			return
		}
		env, err := check.Envelope("checks")
		require.NoError(t, err)
		back, err := delayedcheck.CheckOf(env.Message())
		require.NoError(t, err)
		assert.Equal(t, check.Message.Payload, back.Message.Payload)
		assert.Equal(t, check.Message.ID, back.Message.ID)
	})
}
