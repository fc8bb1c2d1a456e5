package loadtest_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"weft.dev/weft/event"
	"weft.dev/weft/loadtest"
)

func TestResponses(t *testing.T) {
	tests := []struct {
		name     string
		give     string
		statuses []int
		bodies   []string
		err      error // nil: the server ended the connection in order
	}{
		{"length", "HTTP/1.1 202 Accepted\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 202 A\r\ncontent-length:0\r\nConnection: close\r\n\r\n", []int{202, 202}, []string{"hello", ""}, nil},
		{"chunked with extension and trailer", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4;x=y\r\nwiki\r\n10\r\n0123456789abcdef\r\n0\r\nA: b\r\n\r\nHTTP/1.1 204 No\r\nConnection: Close\r\n\r\n", []int{200, 204}, []string{"wiki0123456789abcdef", ""}, nil},
		{"interim answer first", "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx", []int{103, 200}, []string{"", "x"}, nil},
		{"to the end", "HTTP/1.1 503 Busy\r\n\r\ngo away", []int{503}, []string{"go away"}, nil},
		{"HTTP/1.0 closes", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", []int{200}, []string{"ok"}, nil},
		{"no body with 304", "HTTP/1.1 304 N\r\nContent-Length: 9\r\nConnection: close\r\n\r\n", []int{304}, []string{""}, nil},
		{"status without a reason", "HTTP/1.1 200\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", []int{200}, []string{""}, nil},
		{"cut off in the body", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", nil, nil, io.ErrUnexpectedEOF},
		{"cut off in the head", "HTTP/1.1 200 OK\r\nConte", nil, nil, io.ErrUnexpectedEOF},
		{"nothing", "", nil, nil, io.ErrUnexpectedEOF},
		{"not HTTP", "SSH-2.0-OpenSSH\r\n\r\n", nil, nil, loadtest.ErrProtocol},
		{"no number as status", "HTTP/1.1 2xx OK\r\n\r\n", nil, nil, loadtest.ErrProtocol},
		{"broken header", "HTTP/1.1 200 OK\r\nfoo\r\n\r\n", nil, nil, loadtest.ErrProtocol},
		{"broken length", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", nil, nil, loadtest.ErrProtocol},
		{"broken chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", nil, nil, loadtest.ErrProtocol},
		{"chunk longer than said", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n", nil, nil, loadtest.ErrProtocol},
		{"another transfer encoding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", nil, nil, loadtest.ErrProtocol},
	}
	for _, tt := range tests {
		for _, step := range []int{1, 7, 1 << 10} { // bytes per write
			t.Run(tt.name, func(t *testing.T) {
				statuses, bodies, err := responses(tt.give, step)
				if !errors.Is(err, tt.err) || tt.err == nil && err != nil {
					t.Fatalf("err = %v, want %v", err, tt.err)
				}
				if !slices.Equal(statuses, tt.statuses) || !slices.Equal(bodies, tt.bodies) {
					t.Errorf("got %v %q, want %v %q", statuses, bodies, tt.statuses, tt.bodies)
				}
			})
		}
	}
}

// responses feeds text to the reader, step bytes at a time.
func responses(text string, step int) (statuses []int, bodies []string, err error) {
	client, server := net.Pipe()
	defer client.Close()
	go func() { // ends when all is written or the reader is gone
		defer server.Close()
		for rest := []byte(text); len(rest) > 0; {
			n := min(step, len(rest))
			if _, err := server.Write(rest[:n]); err != nil {
				return
			}
			rest = rest[n:]
		}
	}()
	return loadtest.Responses(client)
}

func FuzzResponses(f *testing.F) {
	f.Add("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")
	f.Add("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n")
	f.Fuzz(func(t *testing.T, text string) {
		s1, b1, err1 := responses(text, 3)
		s2, b2, err2 := responses(text, 1<<10)
		if !slices.Equal(s1, s2) || !slices.Equal(b1, b2) || (err1 == nil) != (err2 == nil) {
			t.Errorf("cut up: %v %q %v; whole: %v %q %v", s1, b1, err1, s2, b2, err2)
		}
	})
}

func TestStamps(t *testing.T) {
	sent := time.Unix(0, 1767366245123456789)
	one := loadtest.Stamp{"0a1b2c3d", 42, 123456789012, sent}.Body(200)
	if !json.Valid(one) || len(one) != 200 {
		t.Fatalf("%d bytes, valid %v: %s", len(one), json.Valid(one), one)
	}
	small := loadtest.Stamp{"0a1b2c3d", 1, 7, sent}.Body(0)
	if !json.Valid(small) {
		t.Fatalf("the smallest body is no JSON: %s", small)
	}
	other := loadtest.Stamp{"ffffffff", 9, 9, sent}.Body(100)
	e := event.Event{ID: "1", Source: "/s", Type: "t", Data: small}
	all := slices.Concat([]byte(`[["1:2",`), one, other, e.AppendJSON(nil), []byte(`{"weftload":"0a1b2c3d/00`))
	keys, seqs, times := loadtest.Stamps("0a1b2c3d", all)
	if !slices.Equal(keys, []int{42, 1}) || !slices.Equal(seqs, []uint64{123456789012, 7}) || !times[0].Equal(sent) {
		t.Errorf("keys %v seqs %v times %v", keys, seqs, times)
	}
}

func TestLedger(t *testing.T) {
	tests := []struct {
		name   string
		give   []uint64
		counts [3]uint64 // distinct, duplicates, disordered
		n      uint64
		lost   uint64
	}{
		{"nothing", nil, [3]uint64{}, 3, 3},
		{"in order", []uint64{0, 1, 2}, [3]uint64{3, 0, 0}, 3, 0},
		{"twice", []uint64{0, 1, 1, 0}, [3]uint64{2, 2, 0}, 2, 0},
		{"a hole", []uint64{0, 2, 3}, [3]uint64{3, 0, 0}, 4, 1},
		{"late", []uint64{0, 2, 1, 3}, [3]uint64{4, 0, 1}, 4, 0},
		{"the end is missing", []uint64{0, 1}, [3]uint64{2, 0, 0}, 5, 3},
		{"more than was accepted", []uint64{0, 1, 2}, [3]uint64{3, 0, 0}, 2, 0},
		{"a foreign number", []uint64{1 << 40}, [3]uint64{1, 0, 0}, 1, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := loadtest.NewLedger()
			for _, seq := range tt.give {
				l.Note(5, seq)
			}
			if got := l.Counts(); got != tt.counts {
				t.Errorf("counts = %v, want %v", got, tt.counts)
			}
			if got := l.Lost(5, tt.n); got != tt.lost {
				t.Errorf("lost = %d, want %d", got, tt.lost)
			}
		})
	}
	l := loadtest.NewLedger()
	const n = 1000
	for i := range uint64(n) {
		l.Note(1, i^63) // each block of 64 backwards
	}
	if got := l.Lost(1, 960); got != 0 || l.Note(1, 500) || !l.Note(2, 500) {
		t.Errorf("lost %d; a duplicate across blocks or another key is told wrongly", got)
	}
}

func TestReportText(t *testing.T) {
	r := loadtest.Report{
		Scenario: "fanout", Run: "0a1b2c3d", Server: "http://x", Seconds: 10, Accepted: 1000, Rate: 100,
		Settings: []loadtest.Setting{{Name: "sockets", Value: "10"}},
		Latency:  loadtest.Latency{Count: 1000, P50: 1, P99: 2.5},
		Delivery: &loadtest.Delivery{Expected: 10_000, Delivered: 9_999, Lost: 1, Ordered: true},
		Errors:   map[string]uint64{"timeout": 2, "503 unavailable": 1},
	}
	var b bytes.Buffer
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"fanout  run 0a1b2c3d", "sockets 10", "9999 of 10000", "503 unavailable: 1, timeout: 2", "p50 1.00", "out of order"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	r.Delivery = nil
	r.Compare = &loadtest.Comparison{Server: "http://y", Ratio: 3.25, Rounds: []float64{3, 3.5}}
	b.Reset()
	if err := r.WriteText(&b); err != nil || !strings.Contains(b.String(), "3.25x") || !strings.Contains(b.String(), "3.00 3.50") {
		t.Errorf("%v:\n%s", err, b.String())
	}
}

func TestReportFails(t *testing.T) {
	tests := []struct {
		name string
		give loadtest.Report
		want string
	}{
		{"fine", loadtest.Report{Accepted: 1}, ""},
		{"nothing accepted", loadtest.Report{}, "no event was accepted"},
		{"lost", loadtest.Report{Accepted: 1, Delivery: &loadtest.Delivery{Expected: 2, Lost: 1}}, "1 of 2 deliveries lost"},
		{"duplicates where they may be", loadtest.Report{Accepted: 1, Delivery: &loadtest.Delivery{Duplicates: 1}}, ""},
		{"duplicates where they may not", loadtest.Report{Accepted: 1, Delivery: &loadtest.Delivery{Duplicates: 1, ExactlyOnce: true}}, "1 duplicates"},
		{"order", loadtest.Report{Accepted: 1, Delivery: &loadtest.Delivery{Disordered: 3, Ordered: true}}, "3 deliveries out of order"},
		{"signatures", loadtest.Report{Accepted: 1, Delivery: &loadtest.Delivery{BadSignatures: 1}}, "1 wrong signatures"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.give.Scenario = "x"
			err := tt.give.Failed()
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Failed = %v, want %q", err, tt.want)
			}
		})
	}
}
