//go:build soak

package storetest

// How many random interleavings the model goes through: on virtual time, and on a real clock.
const (
	modelRunsVirtual = 3_000
	modelRunsReal    = 100
	modelSteps       = 60
	crowdRounds      = 60
)
