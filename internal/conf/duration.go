package conf

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const day = 24 * time.Hour

// Duration is a time.Duration written with units: 250ms, 30s, 1h30m, 7d. Days
// are 24 hours.
type Duration time.Duration

// Std is d for the standard library.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// String writes d without zero units, whole days as days.
func (d Duration) String() string {
	v := time.Duration(d)
	if v == 0 {
		return "0s"
	}
	if v%day == 0 {
		return strconv.FormatInt(int64(v/day), 10) + "d"
	}
	s := v.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// MarshalText writes the form that UnmarshalText reads.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// days matches a leading number of days; what follows is the library's format.
var days = regexp.MustCompile(`^([0-9]+(?:\.[0-9]+)?)d(.*)$`)

// UnmarshalText reads a duration that is not negative.
func (d *Duration) UnmarshalText(text []byte) error {
	var whole float64
	rest := string(text)
	if m := days.FindStringSubmatch(rest); m != nil {
		n, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			return errDuration(text)
		}
		whole, rest = n*float64(day), m[2]
		if rest == "" {
			rest = "0"
		}
	}
	v, err := time.ParseDuration(rest)
	if err != nil || v < 0 || whole+float64(v) >= math.MaxInt64 || strings.HasPrefix(rest, "+") {
		return errDuration(text)
	}
	*d = Duration(time.Duration(whole) + v)
	return nil
}

func errDuration(text []byte) error {
	return fmt.Errorf("want a duration such as 250ms, 30s, 1h30m or 7d, have %q", text)
}
