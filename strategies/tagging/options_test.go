package tagging_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/membroker"
	"github.com/waybillmq/waybill/adapters/memstore"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

// invalidFields lists which inputs an error complains about, in order.
func invalidFields(err error) (fields []string) {
	var walk func(error)
	walk = func(err error) {
		switch e := err.(type) { //nolint:errorlint // it is the walk itself
		case *reliable.InvalidError:
			fields = append(fields, e.Field)
		case interface{ Unwrap() []error }:
			for _, one := range e.Unwrap() {
				walk(one)
			}
		case interface{ Unwrap() error }:
			walk(e.Unwrap())
		}
	}
	walk(err)
	return fields
}

func TestNew_eachOptionRefusesWhatMakesNoSense(t *testing.T) {
	noHandler, noTxHandler := tagging.FailedHandler(nil), tagging.FailedTxHandler[*memstore.Tx](nil)
	for name, c := range map[string]struct {
		option tagging.Option
		field  string
	}{
		"lease too short":             {tagging.WithLease(99 * time.Millisecond), "WithLease"},
		"lease too long":              {tagging.WithLease(time.Hour + 1), "WithLease"},
		"no poll interval":            {tagging.WithPollInterval(0), "WithPollInterval"},
		"poll interval too long":      {tagging.WithPollInterval(2 * time.Hour), "WithPollInterval"},
		"no window":                   {tagging.WithWindow(0), "WithWindow"},
		"window too large":            {tagging.WithWindow(100_001), "WithWindow"},
		"no memory":                   {tagging.WithMemory(0, 1), "WithMemory"},
		"no bytes":                    {tagging.WithMemory(1000, 0), "WithMemory"},
		"memory below the window":     {tagging.WithMemory(999, 1), "WithMemory"},
		"no rows":                     {tagging.WithGroupCommit(0, 1, 1), "WithGroupCommit"},
		"no group bytes":              {tagging.WithGroupCommit(1, 0, 1), "WithGroupCommit"},
		"no writers":                  {tagging.WithGroupCommit(1, 1, 0), "WithGroupCommit"},
		"too many writers":            {tagging.WithGroupCommit(1, 1, 65), "WithGroupCommit"},
		"no refusals":                 {tagging.WithFailureBudget(0, time.Hour), "WithFailureBudget"},
		"budget in the past":          {tagging.WithFailureBudget(1, -1), "WithFailureBudget"},
		"no backoff":                  {tagging.WithBackoff(0, time.Hour), "WithBackoff"},
		"backoff above its limit":     {tagging.WithBackoff(2, 1), "WithBackoff"},
		"no unknown backoff":          {tagging.WithUnknownBackoff(-1, time.Hour), "WithUnknownBackoff"},
		"unknown backoff above limit": {tagging.WithUnknownBackoff(2, 1), "WithUnknownBackoff"},
		"classic at once":             {tagging.Classic(0, 3), "Classic"},
		"classic without end":         {tagging.Classic(time.Minute, 1001), "Classic"},
		"classic with less than none": {tagging.Classic(time.Minute, -1), "Classic"},
		"retention in the future":     {tagging.WithRetention(-1), "WithRetention"},
		"drain before the end":        {tagging.WithDrainTimeout(-1), "WithDrainTimeout"},
		"no store timeout":            {tagging.WithStoreTimeout(0), "WithStoreTimeout"},
		"negative limits":             {tagging.WithLimits(reliable.Limits{Payload: -1}), "WithLimits"},
		"no worker":                   {tagging.WithWorker(""), "WithWorker"},
		"long worker":                 {tagging.WithWorker(strings.Repeat("w", 129)), "WithWorker"},
		"no logger":                   {tagging.WithLogger(nil), "WithLogger"},
		"no handler":                  {tagging.WithFailedHandler("topic", noHandler), "WithFailedHandler"},
		"no topic for a handler":      {tagging.WithFailedHandler("", noCompensation), "WithFailedHandler"},
		"no handler in a transaction": {tagging.WithFailedTxHandler("topic", nil, noTxHandler), "WithFailedTxHandler"},
		"no handler at a time":        {tagging.WithHandlersAtOnce(0), "WithHandlersAtOnce"},
		"too many handlers at a time": {tagging.WithHandlersAtOnce(1001), "WithHandlersAtOnce"},
		"no handler backoff":          {tagging.WithHandlerBackoff(0, time.Hour), "WithHandlerBackoff"},
		"handler backoff above limit": {tagging.WithHandlerBackoff(2, 1), "WithHandlerBackoff"},
	} {
		t.Run(name, func(t *testing.T) {
			broker := membroker.New()
			_, err := tagging.New(memstore.New(), broker, broker, c.option)
			require.ErrorIs(t, err, reliable.ErrInvalid)
			assert.Equal(t, []string{c.field}, invalidFields(err))
		})
	}
}

func TestNew_reportsAllContradictionsTogether(t *testing.T) {
	broker := membroker.New(membroker.WithConfirmTimeout(10 * time.Second))
	handler := tagging.WithFailedHandler("topic", noCompensation)
	_, err := tagging.New(memstore.New(), broker, broker, tagging.WithLease(10*time.Second), tagging.WithWindow(0), tagging.WithMemory(10, 10),
		tagging.Classic(time.Minute, 3), tagging.WithFailureBudget(3, time.Minute), handler, handler)
	require.ErrorIs(t, err, reliable.ErrInvalid)
	assert.ElementsMatch(t, []string{"WithWindow", "WithFailedHandler", "WithLease", "WithMemory", "Classic"}, invalidFields(err))
}

func TestNew_theLeaseMustOutliveTheConfirmTimeout(t *testing.T) {
	broker := membroker.New(membroker.WithConfirmTimeout(5 * time.Second))
	_, err := tagging.New(memstore.New(), broker, broker, tagging.WithLease(5*time.Second))
	assert.Equal(t, []string{"WithLease"}, invalidFields(err))
	_, err = tagging.New(memstore.New(), broker, broker, tagging.WithLease(5*time.Second+1))
	assert.NoError(t, err)
}

func TestNew_needsItsCollaborators(t *testing.T) {
	broker := membroker.New()
	_, err := tagging.New(nil, broker, broker)
	require.ErrorIs(t, err, reliable.ErrInvalid)
	_, err = tagging.New(memstore.New(), nil, broker)
	require.ErrorIs(t, err, reliable.ErrInvalid)
	_, err = tagging.New(memstore.New(), broker, nil)
	require.ErrorIs(t, err, reliable.ErrInvalid)
	_, err = tagging.NewSender(nil)
	require.ErrorIs(t, err, reliable.ErrInvalid)
}

func TestNew_handlersNeedAStoreThatCompensates(t *testing.T) {
	broker := membroker.New()
	_, err := tagging.New(bare{memstore.New()}, broker, broker, tagging.WithFailedHandler("topic", noCompensation))
	assert.Equal(t, []string{"WithFailedHandler"}, invalidFields(err))
}

func TestOutbox_aStoreWithoutAbilitiesSaysWhatItCannot(t *testing.T) {
	broker := membroker.New()
	outbox, err := tagging.New(bare{memstore.New()}, broker, broker)
	require.NoError(t, err)
	_, err = outbox.Stats(t.Context())
	require.ErrorIs(t, err, errors.ErrUnsupported)
	_, err = outbox.Send(t.Context(), nil, reliable.Envelope{Topic: "t"})
	require.ErrorIs(t, err, reliable.ErrInvalid)
	err = tagging.InTx(t.Context(), outbox, nil, func(*memstore.Tx, *tagging.Scope) error { return nil })
	require.ErrorIs(t, err, reliable.ErrInvalid)
}

// bare is a store with no abilities.
type bare struct{ reliable.Store }
