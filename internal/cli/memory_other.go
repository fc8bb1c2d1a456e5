//go:build !linux

package cli

// dropBinary does nothing: only Linux is known to need it.
func dropBinary() {}
