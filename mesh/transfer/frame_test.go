package transfer

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
)

func give() frame {
	return frame{After: 7, UpTo: 12, Pending: 3, Acks: 1 << 40, Events: []record{
		{Seq: 8, At: 1767366245000000001, Subject: "ev.a.orders.created", Header: []byte("ce-id: 1\r\nX: a\r\nX: b\r\n"), Data: []byte("data")},
		{Seq: 12, At: -1, Subject: "ev.a.x", Header: []byte{}, Data: []byte{}},
	}}
}

func (f *frame) encode() []byte {
	b := f.appendHead(nil, len(f.Events))
	for _, r := range f.Events {
		b = appendRecord(b, r)
	}
	return b
}

func TestFrame(t *testing.T) {
	want := give()
	got, err := readFrame(want.encode())
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("frame = %+v, %v, want %+v", got, err, want)
	}
	// The server's own marks stay behind; identity and life time cross.
	h := map[string][]string{"Nats-Expected-Stream": {"X"}, "nats-rollup": {"all"}, "Nats-Msg-Id": {"1"}, "Nats-TTL": {"1h"}, "Own": {"x"}}
	if got := string(appendHeader(nil, h, "Own")); got != "Nats-Msg-Id: 1\r\nNats-TTL: 1h\r\n" && got != "Nats-TTL: 1h\r\nNats-Msg-Id: 1\r\n" {
		t.Errorf("headers that cross = %q", got)
	}
}

// What a peer may not say of an event is refused, before the server acts on it.
func TestLocate(t *testing.T) {
	tests := []struct {
		name, origin, header string
		want                 place
		ok                   bool
	}{
		{"the peer's own", "a", "ce-id: 1\r\n", place{5, 9}, true},
		{"relayed", "e", "X: y\r\nWeft-Origin: 12 34\r\n", place{12, 34}, true},
		{"relayed, of an earlier build", "e", "X: y\r\n", place{}, true},
		{"relayed, place is none", "e", "Weft-Origin: 12\r\n", place{}, true},
		{"no header", "a", "", place{5, 9}, true},
		{"the peer's own with a place", "a", "Weft-Origin: 12 34\r\n", place{5, 9}, false},
		{"a command", "a", "nats-Rollup: all\r\n", place{5, 9}, false},
		{"no line", "a", "X", place{5, 9}, false},
		{"no name", "a", ": x\r\n", place{5, 9}, false},
		{"half an end", "a", "X: y\nNats-Rollup: all\r\n", place{5, 9}, false},
		{"an end of all", "a", "X: y\r\n\r\n", place{5, 9}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := record{Seq: 5, At: 9, origin: tt.origin, Header: []byte(tt.header)}
			if err := r.locate("a"); err == nil != tt.ok || r.place != tt.want {
				t.Errorf("place %v, %v; want %v, ok %t", r.place, err, tt.want, tt.ok)
			}
		})
	}
}

func TestFrameRefused(t *testing.T) {
	tests := []struct {
		name   string
		change func(*frame)
	}{
		{"ends before it begins", func(f *frame) { f.After, f.UpTo, f.Events = 9, 8, nil }},
		{"event before it", func(f *frame) { f.Events[0].Seq = 7 }},
		{"event behind it", func(f *frame) { f.Events[1].Seq = 13 }},
		{"an event twice", func(f *frame) { f.Events[1].Seq = 8 }},
		{"more events than a batch holds", func(f *frame) {
			f.UpTo, f.Events = 5000, nil
			for seq := range uint64(frameEvents + 1) {
				f.Events = append(f.Events, record{Seq: 8 + seq})
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := give()
			tt.change(&f)
			if _, err := readFrame(f.encode()); !errors.Is(err, errFrame) {
				t.Errorf("err = %v, want a damaged frame", err)
			}
		})
	}
	f := give()
	whole := f.encode()
	for n := range whole {
		if _, err := readFrame(whole[:n]); !errors.Is(err, errFrame) {
			t.Errorf("the first %d bytes of a frame: %v, want damaged", n, err)
		}
	}
}

func TestPieces(t *testing.T) {
	whole := bytes.Repeat([]byte("0123456789"), 30)
	for _, size := range []int{12, 50, 311, 312, 1000} {
		var a assembly
		ps := pieces(whole, size)
		for i, p := range ps {
			got, err := a.add(p)
			if err != nil || len(p) > size || (got != nil) != (i == len(ps)-1) || got != nil && !bytes.Equal(got, whole) {
				t.Fatalf("piece %d of %d, %d bytes of at most %d: %v", i, len(ps), len(p), size, err)
			}
		}
		// Whichever piece is lost, the frame is not taken for whole.
		for lost := range ps[:len(ps)-1] {
			var a assembly
			var failed bool
			for i, p := range append(ps[:len(ps):len(ps)], ps[0]) {
				if i == lost {
					continue
				}
				got, err := a.add(p)
				if err != nil {
					failed = true
					break
				}
				if got != nil {
					t.Fatalf("a frame of %d pieces is whole without piece %d", len(ps), lost)
				}
			}
			if !failed {
				t.Errorf("the loss of piece %d of %d was not noticed", lost, len(ps))
			}
		}
	}
}

// No input makes the decoder fail other than by an error, and what it takes it
// writes again as it was.
func FuzzFrame(f *testing.F) {
	seed := give()
	f.Add(seed.encode())
	f.Add(seed.encode()[:20])
	f.Add([]byte{frameVersion, 0, 0, 0, 0, 0})
	f.Add([]byte{frameVersion, 0, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1, 0, 0, 255, 255, 3})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := readFrame(b)
		if err != nil {
			if !errors.Is(err, errFrame) {
				t.Fatalf("unexpected error %v", err)
			}
			return
		}
		again, err := readFrame(got.encode())
		if err != nil || !reflect.DeepEqual(again, got) {
			t.Fatalf("%+v became %+v, %v", got, again, err)
		}
	})
}

// A message is put together from pieces of any kind without harm.
func FuzzPieces(f *testing.F) {
	for _, p := range pieces([]byte("frame of several pieces"), 20) {
		f.Add(p, p)
	}
	f.Add([]byte{0, 0, 1}, []byte{1, 255})
	f.Fuzz(func(t *testing.T, a, b []byte) {
		var got assembly
		for _, p := range [][]byte{a, b} {
			if whole, err := got.add(p); err == nil && len(whole) > len(a)+len(b) {
				t.Fatal("more came out than went in")
			}
		}
	})
}
