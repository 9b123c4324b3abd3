package kafkabroker_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/kafkabroker"
	"github.com/waybillmq/waybill/reliable"
)

func TestNew_reportsAllThatIsWrongTogether(t *testing.T) {
	_, err := kafkabroker.New([]string{"host", "host:9092"},
		kafkabroker.WithWindow(0), kafkabroker.WithLinger(time.Minute), kafkabroker.WithConfirmTimeout(time.Millisecond),
		kafkabroker.WithCloseTimeout(-1), kafkabroker.WithMaxMessageBytes(1), kafkabroker.WithMarshaler(nil),
		kafkabroker.WithTopics(0, 1), kafkabroker.WithPlain("user", ""), kafkabroker.WithDialer(nil),
		kafkabroker.WithClientID(""), kafkabroker.WithLogger(nil))
	require.ErrorIs(t, err, reliable.ErrInvalid)
	for _, option := range []string{
		`"host"`, "WithWindow", "WithLinger", "WithConfirmTimeout", "WithCloseTimeout", "WithMaxMessageBytes", "WithMarshaler",
		"WithTopics", "SASL PLAIN", "WithDialer", "WithClientID", "WithLogger",
	} {
		assert.ErrorContains(t, err, option)
	}
	_, err = kafkabroker.New(nil)
	require.ErrorIs(t, err, reliable.ErrInvalid)
}

func TestMaxConfirmWait_fitsIntoALeaseByDefault(t *testing.T) {
	b, err := kafkabroker.New([]string{"host:9092"}, kafkabroker.WithScramSHA512("user", "password"))
	require.NoError(t, err)
	require.Less(t, b.MaxConfirmWait(), time.Minute, "tagging's default lease")
	require.NoError(t, b.Close())
}
