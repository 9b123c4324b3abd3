//go:build !services

package retries

func places() []place { return []place{embeddedNATS} }
