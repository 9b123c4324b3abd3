package middleware_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/adapters/membroker"
	"github.com/waybillmq/waybill/middleware"
	"github.com/waybillmq/waybill/reliable"
)

func TestNew_reportsAllThatIsWrongTogether(t *testing.T) {
	_, err := middleware.New("", nil, "",
		middleware.RetryInPlace(10, time.Second),
		middleware.RetryDelayed(time.Minute, time.Second, 0),
		middleware.WithHold(10*time.Second), middleware.WithTimeout(time.Minute),
		middleware.WithThrottle(0, time.Second), middleware.WithBreaker(0, time.Second),
		middleware.WithPause(time.Minute, time.Second), middleware.WithMiddleware(nil),
		middleware.WithPermanent(nil), middleware.WithReason(nil), middleware.WithLogger(nil), middleware.WithRetryTopics(nil))
	require.ErrorIs(t, err, reliable.ErrInvalid)
	for _, field := range []string{
		"group", "publisher", "poisonTopic", "RetryInPlace", "delay 2 of 1s is shorter", "delay 3 is 0s", "WithTimeout",
		"WithThrottle", "WithBreaker", "WithPause", "WithMiddleware", "WithPermanent", "WithReason", "WithLogger", "WithRetryTopics",
	} {
		assert.ErrorContains(t, err, field)
	}
}

func TestNew_refusesOneTopicForTwoThings(t *testing.T) {
	broker := membroker.New()
	defer broker.Close()
	publisher := broker.Watermill()
	defer publisher.Close()
	for name, names := range map[string]func(topic, group string, number int) string{
		"all numbers alike":  func(topic, _ string, _ int) string { return topic + ".retry" },
		"all topics alike":   func(_, _ string, number int) string { return string(rune('0' + number)) },
		"the topic itself":   func(topic, _ string, _ int) string { return topic },
		"the poison topic":   func(string, string, int) string { return poison },
		"nothing in the way": func(string, string, int) string { return "" },
	} {
		t.Run(name, func(t *testing.T) {
			_, err := middleware.New(group, publisher, poison, middleware.RetryDelayed(time.Second, time.Minute), middleware.WithRetryTopics(names))
			require.ErrorIs(t, err, reliable.ErrInvalid)
			assert.ErrorContains(t, err, "WithRetryTopics")
		})
	}
}

func TestTopics_areWhatMustExist(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		preset := r.preset(middleware.RetryDelayed(time.Second, time.Minute, time.Minute, time.Hour))
		assert.Equal(t, []string{
			"orders.retry.billing.1", "orders.retry.billing.2", "orders.retry.billing.3",
			"refunds.retry.billing.1", "refunds.retry.billing.2", "refunds.retry.billing.3", poison,
		}, preset.Topics(topic, "refunds"))
		assert.Equal(t, []string{poison}, r.preset().Topics(topic))
	})
}

func TestAddHandler_refusesATopicTwiceAndThePoisonTopic(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
		require.NoError(t, err)
		preset := r.preset()
		require.NoError(t, preset.AddConsumerHandler(router, "one", topic, r.broker, failing))
		require.ErrorIs(t, preset.AddConsumerHandler(router, "two", topic, r.broker, failing), reliable.ErrInvalid)
		require.ErrorIs(t, preset.AddConsumerHandler(router, "three", poison, r.broker, failing), reliable.ErrInvalid)
		require.ErrorIs(t, preset.AddHandler(router, "four", "", r.broker, "", r.publisher, nil), reliable.ErrInvalid)
	})
}
