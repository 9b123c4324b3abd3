package delayedcheck

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/waybillmq/waybill/reliable"
)

// What is written by hand is byte for byte what encoding/json makes of it: programs of other versions read it, and a check
// that is stored twice is the same only if its bytes are.
func TestCheckHead_isWhatEncodingJSONWrites(t *testing.T) {
	text := rapid.StringOfN(rapid.OneOf(rapid.Rune(), rapid.SampledFrom([]rune(`"\<>&/`+"\n\x00\u2028\u00e9~ "))), 0, 12, -1)
	rapid.Check(t, func(t *rapid.T) {
		check := Check{
			Message: reliable.Envelope{
				ID: reliable.ID(text.Draw(t, "id")), Topic: text.Draw(t, "topic"), Key: text.Draw(t, "key"),
				Metadata: rapid.MapOfN(text, text, 0, 4).Draw(t, "metadata"),
			},
			Token: reliable.Token(text.Draw(t, "token")), Committed: rapid.Bool().Draw(t, "committed"),
			Groups:   rapid.SliceOfN(text, 1, 3).Draw(t, "groups"),
			Producer: text.Draw(t, "producer"), Round: rapid.IntRange(1, MaxRound).Draw(t, "round"),
		}
		want, err := json.Marshal(checkHead{
			Version: checkVersion, ID: check.Message.ID, Topic: check.Message.Topic, Key: check.Message.Key,
			Metadata: check.Message.Metadata, Token: check.Token, Committed: check.Committed, Groups: check.Groups,
			Producer: check.Producer, Round: check.Round,
		})
		require.NoError(t, err)
		require.Equal(t, string(want), string(check.appendHead(nil)))
	})
}
