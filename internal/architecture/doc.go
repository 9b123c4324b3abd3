// Package architecture holds the tests that keep the direction of dependencies between this module's packages.
package architecture
