//go:build services

package faults

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"

	wamqp "github.com/ThreeDotsLabs/watermill-amqp/v2/pkg/amqp"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/rabbitmqbroker"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/strategies/tagging"
)

// destination is a topic, "refused", whose messages the broker refuses through no fault of theirs. The healthy topic is
// there beside it.
type destination struct {
	name     string
	database func(testing.TB) database
	topology func(amqpURL string) wamqp.Config
	setUp    func(t *testing.T, amqpURL string) (asUser string, repair func())
}

const refusedTopic = "refused"

var destinations = []destination{
	{name: "queue missing", database: mariaDB, setUp: func(t *testing.T, amqpURL string) (string, func()) {
		declare(t, amqpURL, queue, quorum)
		return amqpURL, func() { declare(t, amqpURL, refusedTopic, quorum) }
	}},
	{name: "queue full", database: postgres, setUp: func(t *testing.T, amqpURL string) (string, func()) {
		declare(t, amqpURL, queue, quorum)
		return amqpURL, fill(t, amqpURL)
	}},
	{name: "exchange missing", database: postgres, topology: exchanges, setUp: func(t *testing.T, amqpURL string) (string, func()) {
		declareExchange(t, amqpURL, queue)
		return amqpURL, func() { declareExchange(t, amqpURL, refusedTopic) }
	}},
	{name: "no permission", database: mariaDB, topology: exchanges, setUp: func(t *testing.T, amqpURL string) (string, func()) {
		declareExchange(t, amqpURL, queue)
		declareExchange(t, amqpURL, refusedTopic)
		return restrictedUser(t, amqpURL)
	}},
}

// notDeclaring leaves the destinations as they are.
var notDeclaring = []rabbitmqbroker.Option{rabbitmqbroker.WithoutDeclaring()}

// exchanges has an exchange of its own for each topic.
func exchanges(amqpURL string) wamqp.Config {
	return wamqp.NewDurablePubSubConfig(amqpURL, wamqp.GenerateQueueNameTopicName)
}

// rig sets the destination up and starts relaying.
func (d *destination) rig(t *testing.T, outbox ...tagging.Option) (r *rig, amqpURL string, repair func()) {
	t.Helper()
	amqpURL = testenv.RabbitMQ(t)
	asUser, repair := d.setUp(t, amqpURL)
	return newRig(t, rigConfig{
		database: d.database(t), amqpURL: asUser, topology: d.topology, outbox: outbox,
		broker: notDeclaring,
	}), amqpURL, repair
}

// onChannel does something on the broker with a bare client.
func onChannel(t testing.TB, amqpURL string, do func(channel *amqp.Channel) error) {
	t.Helper()
	conn, err := amqp.Dial(amqpURL)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	channel, err := conn.Channel()
	require.NoError(t, err)
	require.NoError(t, do(channel))
}

var quorum = amqp.Table{amqp.QueueTypeArg: amqp.QueueTypeQuorum}

// declare makes a queue, or changes nothing if it is there.
func declare(t testing.TB, amqpURL, name string, arguments amqp.Table) {
	t.Helper()
	onChannel(t, amqpURL, func(channel *amqp.Channel) error {
		_, err := channel.QueueDeclare(name, true, false, false, false, arguments)
		return err
	})
}

// declareExchange makes an exchange with one queue behind it, both of one name.
func declareExchange(t testing.TB, amqpURL, name string) {
	t.Helper()
	declare(t, amqpURL, name, quorum)
	onChannel(t, amqpURL, func(channel *amqp.Channel) error {
		if err := channel.ExchangeDeclare(name, amqp.ExchangeFanout, true, false, false, false, nil); err != nil {
			return err
		}
		return channel.QueueBind(name, "", name, false, nil)
	})
}

// fill makes the refused topic a queue that is full and rejects, and returns what makes room.
func fill(t testing.TB, amqpURL string) (makeRoom func()) {
	t.Helper()
	policy := "/api/policies/" + vhostOf(t, amqpURL) + "/full"
	declare(t, amqpURL, refusedTopic, nil)
	onChannel(t, amqpURL, func(channel *amqp.Channel) error {
		if err := channel.Confirm(false); err != nil {
			return err
		}
		confirm, err := channel.PublishWithDeferredConfirm("", refusedTopic, false, false, amqp.Publishing{MessageId: filler})
		if err == nil {
			confirm.Wait()
		}
		return err
	})
	manage(t, http.MethodPut, policy, map[string]any{
		"pattern": "^" + refusedTopic + "$", "apply-to": "queues", "definition": map[string]any{"max-length": 1, "overflow": amqp.QueueOverflowRejectPublish},
	})
	return func() { manage(t, http.MethodDelete, policy, nil) }
}

// filler is the id of the message that fills a queue.
const filler = "filler"

func vhostOf(t testing.TB, amqpURL string) string {
	t.Helper()
	u, err := url.Parse(amqpURL)
	require.NoError(t, err)
	return strings.TrimPrefix(u.Path, "/")
}

// restrictedUser makes an account that may publish to the healthy topic only, and returns its URL and what grants it all.
func restrictedUser(t testing.TB, amqpURL string) (asUser string, grant func()) {
	t.Helper()
	u, err := url.Parse(amqpURL)
	require.NoError(t, err)
	vhost := vhostOf(t, amqpURL)
	name := "user_" + vhost
	permit := func(write string) {
		manage(t, http.MethodPut, "/api/permissions/"+vhost+"/"+name, map[string]string{"configure": "^$", "write": write, "read": ".*"})
	}
	manage(t, http.MethodPut, "/api/users/"+name, map[string]string{"password": name, "tags": ""})
	t.Cleanup(func() { manage(t, http.MethodDelete, "/api/users/"+name, nil) })
	permit("^" + queue + "$")
	u.User = url.UserPassword(name, name)
	return u.String(), func() { permit(".*") }
}

// manage makes one request to the broker's management API.
func manage(t testing.TB, method, path string, body any) {
	t.Helper()
	content, err := json.Marshal(body)
	require.NoError(t, err)
	request, err := http.NewRequest(method, testenv.RabbitMQAPI(t)+path, bytes.NewReader(content))
	require.NoError(t, err)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Less(t, response.StatusCode, http.StatusMultipleChoices, response.Status)
}
