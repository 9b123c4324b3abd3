package reliable_test

import (
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

func TestProcessedMessage_travelsWhole(t *testing.T) {
	confirms := []reliable.Processed{{ID: "order-1", Group: "billing"}, {ID: "öl\"", Group: "a b"}}
	msg, err := reliable.ProcessedMessage(confirms...)
	require.NoError(t, err)
	back, err := reliable.ProcessedOf(msg)
	require.NoError(t, err)
	assert.Equal(t, confirms, back)
}

func TestProcessedMessage_refusesWhatIsNone(t *testing.T) {
	_, err := reliable.ProcessedMessage()
	require.ErrorIs(t, err, reliable.ErrInvalid)
	_, err = reliable.ProcessedMessage(reliable.Processed{ID: "order-1"})
	require.ErrorIs(t, err, reliable.ErrInvalid)
	_, err = reliable.ProcessedMessage(make([]reliable.Processed, reliable.MaxProcessed+1)...)
	require.ErrorIs(t, err, reliable.ErrInvalid)
}

func FuzzProcessedOf(f *testing.F) {
	f.Add([]byte(`{"v":1,"processed":[{"id":"order-1","group":"billing"}]}`))
	f.Add([]byte(`{"v":1,"processed":[]}`))
	f.Add([]byte(`{"v":9}`))
	f.Add([]byte(`order 1`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		confirms, err := reliable.ProcessedOf(message.NewMessage("m", payload))
		if err != nil {
			assert.ErrorIs(t, err, reliable.ErrInvalid)
			return
		}
		msg, err := reliable.ProcessedMessage(confirms...)
		require.NoError(t, err)
		back, err := reliable.ProcessedOf(msg)
		require.NoError(t, err)
		assert.Equal(t, confirms, back)
	})
}
