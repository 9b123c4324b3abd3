package httprpc_test

import (
	"encoding/hex"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/delayedcheck/httprpc"
)

func TestNewClient_takesAnAddressThatKeepsPayloadsToItself(t *testing.T) {
	for _, good := range []string{"https://shop.example/resend", "https://shop.example", "http://localhost:80/x", "http://127.0.0.1:8080", "http://[::1]:1/"} {
		_, err := httprpc.NewClient(good, key("new"))
		assert.NoError(t, err, good)
	}
	for _, bad := range []string{
		"", "shop.example", "ftp://shop.example/", "http://shop.example/", "https://user:pass@shop.example/", "https:///x",
		"https://shop.example/?a=b", "https://shop.example/#a", "https://a b/", "://",
	} {
		_, err := httprpc.NewClient(bad, key("new"))
		require.ErrorIs(t, err, reliable.ErrInvalid, bad)
		assert.NotContains(t, err.Error(), "pass@")
	}
	_, err := httprpc.NewClient("http://shop.example/", key("new"), httprpc.WithPlainHTTP())
	assert.NoError(t, err)
}

func TestNew_reportsEverythingThatIsWrong(t *testing.T) {
	_, err := httprpc.NewHandler(nil, nil, httprpc.WithWindow(0), httprpc.WithHandlerTimeout(0), httprpc.WithMaxBody(0),
		httprpc.WithMaxInFlight(0), httprpc.WithMaxRemembered(0), httprpc.WithLogger(nil))
	require.ErrorIs(t, err, reliable.ErrInvalid)
	for _, field := range []string{"keys", "resender", "WithWindow", "WithHandlerTimeout", "WithMaxBody", "WithMaxInFlight", "WithMaxRemembered", "WithLogger"} {
		assert.ErrorContains(t, err, field)
	}
	_, err = httprpc.NewHandler(answering(nil), []httprpc.Key{key("new"), key("new")})
	require.ErrorContains(t, err, "twice")
	_, err = httprpc.NewClient("x", httprpc.Key{}, httprpc.WithTimeout(-time.Second), httprpc.WithTransport(nil))
	for _, field := range []string{"address", "key", "WithTimeout", "WithTransport"} {
		assert.ErrorContains(t, err, field)
	}
}

func TestKey_isReadFromTextAndTellsNothing(t *testing.T) {
	secret := "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
	parsed, err := httprpc.ParseKey("2026-11:" + secret)
	require.NoError(t, err)
	assert.Equal(t, "2026-11", parsed.ID)
	assert.Equal(t, secret, hex.EncodeToString(parsed.Secret))
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		assert.Equal(t, "key 2026-11", fmt.Sprintf(verb, parsed))
	}
	assert.Equal(t, "key 2026-11", parsed.LogValue().String())

	for _, bad := range []string{"", secret, "a:zz" + secret, "a:" + secret[:62], ":" + secret, secret + secret + ":" + secret, "my secret:" + secret} {
		_, err := httprpc.ParseKey(bad)
		require.ErrorIs(t, err, reliable.ErrInvalid, bad)
		assert.NotContains(t, err.Error(), secret[:20])
		assert.NotContains(t, err.Error(), "my secret")
	}
}
