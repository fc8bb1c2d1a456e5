package cli

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// script answers the requests of a subscriber one after the other.
func script(t *testing.T, answers ...http.HandlerFunc) (server string, asked *[]http.Header) {
	t.Helper()
	asked = &[]http.Header{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*asked = append(*asked, r.Header)
		answers[min(len(*asked), len(answers))-1](w, r)
	}))
	t.Cleanup(s.Close)
	return s.URL, asked
}

func sse(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) }
}

func refuse(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, `{"title":"No","detail":"not like this"}`)
	}
}

const oneEvent = "id: EVENTS@k:7\ndata: {\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"/s\",\"type\":\"t\"}\n\n"

func TestSubResumesWhereItBroke(t *testing.T) {
	server, asked := script(t, sse(oneEvent), refuse(http.StatusServiceUnavailable), sse(strings.ReplaceAll(oneEvent, ":7", ":8")))
	r := command(t.Context(), "", "sub", "a", "--count", "2", "--server", server)
	if r.failure != nil || strings.Count(r.out, "\n") != 2 {
		t.Errorf("out = %q, %v", r.out, r.failure)
	}
	if got := (*asked)[2].Get("Last-Event-ID"); got != "EVENTS@k:7" {
		t.Errorf("resumed after %q", got)
	}
}

// Whether connected or not, a subscriber that waits no longer than idle-exit
// for an event ends.
func TestSubIdleExitWithoutConnection(t *testing.T) {
	server, _ := script(t, sse(oneEvent), refuse(http.StatusServiceUnavailable))
	if r := command(t.Context(), "", "sub", "a", "--idle-exit", "600ms", "--server", server); r.failure != nil {
		t.Error(r.failure)
	}
}

// What no retry can mend ends the subscriber.
func TestSubEndsWhenItIsRefused(t *testing.T) {
	server, asked := script(t, sse(oneEvent), refuse(http.StatusUnauthorized))
	r := command(t.Context(), "", "sub", "a", "--server", server)
	if ExitCode(r.failure) != 1 || !strings.Contains(r.failure.Error(), "not like this") || len(*asked) != 2 {
		t.Errorf("%v after %d requests, want the refusal after 2", r.failure, len(*asked))
	}
}

func TestSubTellsOfAGap(t *testing.T) {
	for control, want := range map[string]string{
		`{"t":"gap","s":1,"from":"1:4","to":"1:9","why":"retention"}`: "events 4 to 9 are gone (retention)",
		`{"t":"gap","s":1,"from":"1:6","why":"epoch"}`:                "events from 6 on are gone (epoch)",
	} {
		server, _ := script(t, sse("event: weft\ndata: "+control+"\n\n"+oneEvent))
		if r := command(t.Context(), "", "sub", "a", "--count", "1", "--server", server); !strings.Contains(r.err, want) {
			t.Errorf("%s: told %q, want %q", control, r.err, want)
		}
	}
}
