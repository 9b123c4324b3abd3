//go:build soak

package tagging_test

// How much the model runs when there is time.
const (
	modelHistories = 20_000
	modelFirstSeed = 1_000_000
	modelSteps     = 120
)
