//go:build services

package rabbitmqbroker_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	wamqp "github.com/ThreeDotsLabs/watermill-amqp/v2/pkg/amqp"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/rabbitmqbroker"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/internal/testservers"
	"github.com/waybillmq/waybill/reliable"
)

func alone(a reliable.Attempt) reliable.Attempt {
	a.Fence++
	a.Alone = true
	return a
}

// account makes an account that may do nothing but what is given, and returns the URL with it.
func account(t *testing.T, address string, permissions map[string]string) string {
	t.Helper()
	u, err := url.Parse(address)
	require.NoError(t, err)
	name := strings.ToLower(t.Name()[strings.LastIndex(t.Name(), "_")+1:])
	put := func(method, path string, body any) {
		content, err := json.Marshal(body)
		require.NoError(t, err)
		request, err := http.NewRequest(method, testenv.RabbitMQAPI(t)+path, bytes.NewReader(content))
		require.NoError(t, err)
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		response, err := client.Do(request)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Less(t, response.StatusCode, 300, response.Status)
	}
	put(http.MethodPut, "/api/users/"+name, map[string]string{"password": "top-secret", "tags": ""})
	t.Cleanup(func() { put(http.MethodDelete, "/api/users/"+name, nil) })
	if permissions != nil {
		put(http.MethodPut, "/api/permissions/"+strings.TrimPrefix(u.Path, "/")+"/"+name, permissions)
	}
	u.User = url.UserPassword(name, "top-secret")
	return u.String()
}

func TestPublish_toAQueueThatIsFullIsNacked(t *testing.T) {
	address := testenv.RabbitMQ(t)
	ch := admin(t, address)
	declareQueue(t, ch, "full", amqp.Table{amqp.QueueMaxLenArg: 2, amqp.QueueOverflowArg: amqp.QueueOverflowRejectPublish})
	b := open(t, address) // its own declaration of the queue is refused, and does no harm
	batch := attempts("full", 20)
	confirms := publish(t, b, batch...)
	require.Equal(t, depth(t, ch, "full"), count(confirms, reliable.Acked))
	require.Equal(t, 20, count(confirms, reliable.Acked)+count(confirms, reliable.Nacked))
	require.ErrorContains(t, confirms[batch[19].ID].Err, "nacked")
	require.EqualValues(t, 1, b.Stats().Sessions)
}

func TestPublish_withoutDeclaringIsReturnedUntilSomebodyDeclares(t *testing.T) {
	address := testenv.RabbitMQ(t)
	b := open(t, address, rabbitmqbroker.WithoutDeclaring())
	batch := attempts("orders", 300)
	confirms := publish(t, b, batch...)
	require.Equal(t, 300, count(confirms, reliable.Returned))
	require.ErrorContains(t, confirms[batch[0].ID].Err, "declare or bind the queue")
	declareQueue(t, admin(t, address), "orders", nil)
	require.Equal(t, 300, count(publish(t, b, batch...), reliable.Acked))
}

func TestPublish_declaresAgainWhatSomebodyDeleted(t *testing.T) {
	address := testenv.RabbitMQ(t)
	b := open(t, address)
	requireOutcome(t, reliable.Acked, only(publish(t, b, attempts("orders", 1)...)))
	_, err := admin(t, address).QueueDelete("orders", false, false, false)
	require.NoError(t, err)
	requireOutcome(t, reliable.Returned, only(publish(t, b, attempts("orders", 1)...)))
	requireOutcome(t, reliable.Acked, only(publish(t, b, attempts("orders", 1)...)))
}

func only(confirms map[reliable.ID]reliable.Confirm) reliable.Confirm {
	for _, c := range confirms {
		return c
	}
	return reliable.Confirm{}
}

func TestPublish_withoutMandatoryTakesTheBrokersWord(t *testing.T) {
	b := open(t, testenv.RabbitMQ(t), rabbitmqbroker.WithoutMandatory(), rabbitmqbroker.WithoutDeclaring())
	requireOutcome(t, reliable.Acked, only(publish(t, b, attempts("nowhere", 1)...)))
}

// exchangeConfig publishes to an exchange of the topic's name and declares nothing.
func exchangeBroker(t *testing.T, address string, opts ...rabbitmqbroker.Option) *rabbitmqbroker.Broker {
	t.Helper()
	config := wamqp.NewDurablePubSubConfig(address, wamqp.GenerateQueueNameTopicName)
	b, err := rabbitmqbroker.New(config, append([]rabbitmqbroker.Option{quiet()}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	return b
}

func TestPublish_toAMissingExchangeIsUnknownInCompanyAndReturnedAlone(t *testing.T) {
	b := exchangeBroker(t, testenv.RabbitMQ(t), rabbitmqbroker.WithoutDeclaring())
	batch := attempts("missing", 3)
	for _, c := range publish(t, b, batch...) {
		requireOutcome(t, reliable.Unknown, c)
		require.ErrorIs(t, c.Err, reliable.ErrConnectionLost)
		var reason *amqp.Error
		require.ErrorAs(t, c.Err, &reason)
		require.Equal(t, amqp.NotFound, reason.Code)
	}
	requireOutcome(t, reliable.Returned, only(publish(t, b, alone(batch[0]))))
}

func TestPublish_throughAnExchangeItDeclares(t *testing.T) {
	address := testenv.RabbitMQ(t)
	t.Run("the exchange only, so that without a queue it is returned", func(t *testing.T) {
		b := exchangeBroker(t, address)
		requireOutcome(t, reliable.Returned, only(publish(t, b, attempts("events", 1)...)))
		requireOutcome(t, reliable.Returned, only(publish(t, b, alone(attempts("events", 1)[0]))))
	})
	t.Run("queue and binding as well", func(t *testing.T) {
		b := exchangeBroker(t, address, rabbitmqbroker.WithDeclaredQueues(), rabbitmqbroker.WithQuorumQueues())
		requireOutcome(t, reliable.Acked, only(publish(t, b, attempts("events", 1)...)))
		requireOutcome(t, reliable.Acked, only(publish(t, b, alone(attempts("events", 1)[0]))))
	})
}

func TestPublish_withoutPermission_isReturnedAlone(t *testing.T) {
	address := testenv.RabbitMQ(t)
	declareQueue(t, admin(t, address), "orders", nil)
	b := open(t, account(t, address, map[string]string{"configure": "", "write": "^$", "read": ".*"}))
	batch := attempts("orders", 3)
	for _, c := range publish(t, b, batch...) {
		requireOutcome(t, reliable.Unknown, c)
		require.ErrorIs(t, c.Err, reliable.ErrConnectionLost)
	}
	requireOutcome(t, reliable.Returned, only(publish(t, b, alone(batch[0]))))
}

func TestPublish_withoutPermission_toDeclareWorksIfItIsThere(t *testing.T) {
	address := testenv.RabbitMQ(t)
	declareQueue(t, admin(t, address), "orders", nil)
	b := open(t, account(t, address, map[string]string{"configure": "^$", "write": ".*", "read": "^$"}))
	requireOutcome(t, reliable.Acked, only(publish(t, b, attempts("orders", 1)...)))
}

func TestPing_saysWhatIsWrong(t *testing.T) {
	address := testenv.RabbitMQ(t)
	require.NoError(t, open(t, address).Ping(t.Context()))
	wrongPassword, err := url.Parse(address)
	require.NoError(t, err)
	wrongPassword.User = url.UserPassword(wrongPassword.User.Username(), "not-the-secret")
	missingVhost, err := url.Parse(address)
	require.NoError(t, err)
	missingVhost.Path = "/missing"
	for _, test := range []struct {
		name, url string
		want      rabbitmqbroker.ConnectProblem
	}{
		{"wrong password", wrongPassword.String(), rabbitmqbroker.LoginRefused},
		{"missing vhost", missingVhost.String(), rabbitmqbroker.VhostRefused},
		{"vhost of others", account(t, address, nil), rabbitmqbroker.VhostRefused},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := open(t, test.url).Ping(t.Context())
			var problem *rabbitmqbroker.ConnectError
			require.ErrorAs(t, err, &problem)
			require.Equal(t, test.want, problem.Problem, "%v", err)
			require.NotContains(t, err.Error(), "secret")
		})
	}
}

func TestPublish_whatIsTooLargeIsRejectedBeforeItHarms(t *testing.T) {
	const limit = 1 << 20
	address := testenv.RabbitMQ(t)
	b := open(t, address, rabbitmqbroker.WithMaxMessageBytes(limit))
	batch := attempts("orders", 6)
	batch[1].Payload = make([]byte, limit)
	batch[2].Payload = make([]byte, limit+1)
	batch[3].Metadata = map[string]string{"large": strings.Repeat("x", 200_000)}
	batch[4].Topic = strings.Repeat("x", 256)
	confirms := publish(t, b, batch...)
	for i, want := range []reliable.Outcome{
		reliable.Acked, reliable.Acked, reliable.Rejected, reliable.Rejected, reliable.Rejected, reliable.Acked,
	} {
		requireOutcome(t, want, confirms[batch[i].ID])
	}
	require.ErrorContains(t, confirms[batch[2].ID].Err, "store it elsewhere")
	require.ErrorContains(t, confirms[batch[3].ID].Err, "shorten the metadata")
	require.ErrorContains(t, confirms[batch[4].ID].Err, "routing key")
	require.EqualValues(t, 1, b.Stats().Sessions)
}

// TestLimits_whatTheyAllowFits takes the metadata to the limit, in many short pairs and in one long one.
func TestLimits_whatTheyAllowFits(t *testing.T) {
	b := open(t, testenv.RabbitMQ(t))
	limits := b.Limits()
	batch := attempts("orders", 2)
	batch[0].Metadata = map[string]string{"k": strings.Repeat("x", limits.Metadata-1)}
	batch[1].Metadata = map[string]string{}
	each := limits.Metadata / limits.MetadataPairs
	for i := range limits.MetadataPairs {
		key := strings.Repeat("k", 4) + string(rune('a'+i%26)) + string(rune('a'+i/26))
		batch[1].Metadata[key] = strings.Repeat("x", each-len(key))
	}
	for i := range batch {
		require.NoError(t, limits.Check(&batch[i].Envelope))
	}
	require.Equal(t, 2, count(publish(t, b, batch...), reliable.Acked))
}

func TestPublish_unchecked_aHeaderLargerThanAFrameIsFoundAlone(t *testing.T) {
	b := open(t, testenv.RabbitMQ(t), rabbitmqbroker.WithoutSizeChecks())
	poison := attempts("orders", 1)[0]
	poison.Metadata = map[string]string{"large": strings.Repeat("x", 200_000)}
	findPoison(t, b, poison)
}

func TestPublish_unchecked_aPayloadAboveTheBrokersLimitIsFoundAlone(t *testing.T) {
	server := testservers.StartRabbitMQ(t, "max_message_size = 1000000")
	b := open(t, server.URL(), rabbitmqbroker.WithoutSizeChecks())
	poison := attempts("orders", 1)[0]
	poison.Payload = make([]byte, 1_000_001)
	findPoison(t, b, poison)
}

// findPoison publishes 400 attempts of which one kills the channel or the connection, then each that is unknown alone.
func findPoison(t *testing.T, b *rabbitmqbroker.Broker, poison reliable.Attempt) {
	t.Helper()
	require.NoError(t, b.Ping(t.Context()))
	const at = 200
	batch := attempts("orders", 400)
	batch[at] = poison
	confirms := publish(t, b, batch...)
	requireOutcome(t, reliable.Unknown, confirms[poison.ID])
	var suspects []reliable.Attempt
	for i := range batch {
		switch c := confirms[batch[i].ID]; c.Outcome {
		case reliable.Acked:
		case reliable.Unknown:
			require.ErrorIs(t, c.Err, reliable.ErrConnectionLost)
			suspects = append(suspects, alone(batch[i]))
		default:
			requireOutcome(t, reliable.Unknown, c)
		}
	}
	require.NotEmpty(t, suspects)
	began := time.Now()
	for id, c := range publish(t, b, suspects...) {
		want := reliable.Acked
		if id == poison.ID {
			want = reliable.Rejected
		}
		requireOutcome(t, want, c)
	}
	t.Logf("%d suspects alone in %v", len(suspects), time.Since(began))
}
