package policy

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// maxPerSecond bounds a rate: an interval is a whole number of nanoseconds, and
// above this the rounding would show.
const maxPerSecond = 10_000_000

// Rate is a number of events per unit of time. The text form is "500/s",
// "1000/m" or "10/h".
type Rate struct {
	Count int
	Per   time.Duration
}

// IsZero says that no rate is set.
func (r Rate) IsZero() bool { return r == Rate{} }

// String returns the text form.
func (r Rate) String() string {
	for unit, per := range units {
		if per == r.Per {
			return strconv.Itoa(r.Count) + "/" + unit
		}
	}
	return fmt.Sprintf("%d/%s", r.Count, r.Per)
}

var units = map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour}

// ParseRate reads the text form.
func ParseRate(s string) (Rate, error) {
	count, unit, ok := strings.Cut(s, "/")
	n, err := strconv.Atoi(strings.TrimSpace(count))
	per, known := units[strings.TrimSpace(unit)]
	if !ok || err != nil || !known || n < 1 {
		return Rate{}, fmt.Errorf("rate %q: want a whole number above zero per second, minute or hour, as in 500/s, 1000/m, 10/h", s)
	}
	if float64(n)/per.Seconds() > maxPerSecond {
		return Rate{}, fmt.Errorf("rate %q: above the limit of %d/s", s, maxPerSecond)
	}
	return Rate{Count: n, Per: per}, nil
}

// MarshalText writes the text form, nothing for no rate.
func (r Rate) MarshalText() ([]byte, error) {
	if r.IsZero() {
		return nil, nil
	}
	return []byte(r.String()), nil
}

// UnmarshalText reads the text form.
func (r *Rate) UnmarshalText(text []byte) error {
	got, err := ParseRate(string(text))
	if err != nil {
		return err
	}
	*r = got
	return nil
}

func (r Rate) interval() int64 {
	return max(int64(r.Per)/int64(max(r.Count, 1)), 1)
}
