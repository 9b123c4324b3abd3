//go:build soak

package storetest

// How many random interleavings the model goes through: on virtual time, and on a real clock.
const (
	modelRunsVirtual = 20_000
	modelRunsReal    = 400
	modelSteps       = 60
	crowdRounds      = 200
)
