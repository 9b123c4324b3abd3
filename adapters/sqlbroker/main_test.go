package sqlbroker_test

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// Watermill's suite reads through a helper of its own, which stays behind when a message is delivered once more.
	const helper = "github.com/ThreeDotsLabs/watermill/internal/subscriber.(*multiplier).Subscribe."
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction(helper+"func2"), goleak.IgnoreAnyFunction(helper+"func3"))
}
