//go:build !soak

package tagging_test

// How much the model runs each time.
const (
	modelHistories = 2000
	modelFirstSeed = 1
	modelSteps     = 40
)
