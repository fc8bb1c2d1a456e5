//go:build race

package mesh_test

// slowed tells that the race detector takes most of the processors.
const slowed = true
