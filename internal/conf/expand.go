package conf

import (
	"fmt"
	"io"
	"os"
	"strings"
)

// maxFile bounds what ${file:…} reads: keys and tokens are far smaller, and a
// device file must not fill memory.
const maxFile = 1 << 20

// expand replaces ${NAME}, ${NAME:-default} and ${file:/path} in one value and
// turns $$ into $. What it puts in is not expanded again. changed reports
// whether any ${…} was there.
func expand(value string, lookup Lookup) (text string, changed bool, err error) {
	var out strings.Builder
	rest := value
	for {
		before, after, found := strings.Cut(rest, "$")
		out.WriteString(before)
		switch {
		case !found:
			return out.String(), changed, nil
		case strings.HasPrefix(after, "$"):
			out.WriteByte('$')
			rest = after[1:]
		case strings.HasPrefix(after, "{"):
			name, tail, closed := strings.Cut(after[1:], "}")
			if !closed {
				return "", false, fmt.Errorf("${ without }; write $$ for a plain $")
			}
			v, err := resolve(name, lookup)
			if err != nil {
				return "", false, err
			}
			out.WriteString(v)
			rest, changed = tail, true
		default:
			out.WriteByte('$')
			rest = after
		}
	}
}

// resolve gives the value for what stands between ${ and }.
func resolve(name string, lookup Lookup) (string, error) {
	if path, ok := strings.CutPrefix(name, "file:"); ok {
		return readValue(path)
	}
	name, fallback, hasFallback := strings.Cut(name, ":-")
	if !isName(name) {
		return "", fmt.Errorf("want ${NAME}, ${NAME:-default} or ${file:/path}, have ${%s}", name)
	}
	if v, ok := lookup(name); ok && (v != "" || !hasFallback) {
		return v, nil
	}
	if hasFallback {
		return fallback, nil
	}
	return "", fmt.Errorf("variable %s is not set; give a default with ${%s:-default}", name, name)
}

// readValue reads a file and drops the line end that editors append.
func readValue(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err // names the operation and the path
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return "", err
	}
	if len(data) > maxFile {
		return "", fmt.Errorf("file %s is larger than %s", path, Size(maxFile))
	}
	text := strings.TrimSuffix(string(data), "\n")
	return strings.TrimSuffix(text, "\r"), nil
}

// isName reports whether s is a variable name: letters, digits and _, not
// beginning with a digit.
func isName(s string) bool {
	for i, c := range s {
		letter := c == '_' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}
