//go:build !soak

package storetest

// How many random interleavings the model goes through: on virtual time, and on a real clock.
const (
	modelRunsVirtual = 300
	modelRunsReal    = 20
	modelSteps       = 30
	crowdRounds      = 15
)
