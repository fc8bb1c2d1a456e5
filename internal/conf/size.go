package conf

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Size is a number of bytes written with a unit: 512B, 64KiB, 1MiB, 50GiB,
// 2TiB, or the decimal 500kB, 10MB, 1GB, 1TB.
type Size int64

// units from the largest; String takes the first binary one that fits exactly.
var units = []struct {
	name  string
	bytes int64
}{
	{"TiB", 1 << 40},
	{"GiB", 1 << 30},
	{"MiB", 1 << 20},
	{"KiB", 1 << 10},
	{"TB", 1e12},
	{"GB", 1e9},
	{"MB", 1e6},
	{"kB", 1e3},
	{"B", 1},
}

// Bytes is s as a plain number.
func (s Size) Bytes() int64 { return int64(s) }

// String writes s in the largest unit that needs no fraction.
func (s Size) String() string {
	if s == 0 {
		return "0B"
	}
	for _, u := range units {
		if int64(s)%u.bytes == 0 {
			return strconv.FormatInt(int64(s)/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10) + "B"
}

// MarshalText writes the form that UnmarshalText reads.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads a size that is not negative; a number without a unit,
// other than 0, is refused.
func (s *Size) UnmarshalText(text []byte) error {
	t := string(text)
	if t == "0" {
		*s = 0
		return nil
	}
	for _, u := range units {
		number, ok := strings.CutSuffix(t, u.name)
		if !ok {
			continue
		}
		number = strings.TrimSuffix(number, " ")
		if strings.Trim(number, "0123456789.") != "" {
			break
		}
		if n, err := strconv.ParseInt(number, 10, 64); err == nil && n <= math.MaxInt64/u.bytes {
			*s = Size(n * u.bytes)
			return nil
		}
		f, err := strconv.ParseFloat(number, 64)
		if err != nil || f*float64(u.bytes) >= math.MaxInt64 {
			break
		}
		*s = Size(f * float64(u.bytes))
		return nil
	}
	return fmt.Errorf("want a size such as 64KiB, 1MiB, 50GiB or 500kB, have %q", t)
}
