//go:build !linux

package chaos

import "errors"

func (v *volume) mount() error { return errors.ErrUnsupported }

func (v *volume) resize(int64) error { return errors.ErrUnsupported }

func (v *volume) used() (int64, error) { return 0, errors.ErrUnsupported }

func (v *volume) unmount() error { return errors.ErrUnsupported }
