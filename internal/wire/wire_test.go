package wire_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"weft.dev/weft/internal/wire"
)

// serve runs a real server that admits one user.
func serve(t *testing.T) *server.Server {
	t.Helper()
	s, err := server.NewServer(&server.Options{DontListen: true, NoSigs: true, MaxPayload: 4096, Username: "me", Password: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	go s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server does not get ready")
	}
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	return s
}

func dial(t *testing.T, s *server.Server) *wire.Conn {
	t.Helper()
	conn, err := s.InProcessConn()
	if err != nil {
		t.Fatal(err)
	}
	c, err := wire.Dial(conn, "test", "me", "secret")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// listen subscribes by the official client; what has come is in the channel.
func listen(t *testing.T, s *server.Server, answer bool) <-chan *nats.Msg {
	t.Helper()
	nc, err := nats.Connect("", nats.InProcessServer(s), nats.UserInfo("me", "secret"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	got := make(chan *nats.Msg, 10_000)
	_, err = nc.Subscribe("in.>", func(m *nats.Msg) {
		got <- m
		if answer && m.Reply != "" {
			_ = m.Respond([]byte("to " + string(m.Data)))
		}
	})
	if err == nil {
		err = nc.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestPublish(t *testing.T) {
	s := serve(t)
	got := listen(t, s, true)
	c := dial(t, s)
	const n = 2000 // many buffers
	for i := range n {
		if err := c.Publish(wire.Message{
			Subject: fmt.Sprint("in.", i), First: "A: 1\r\n", Header: []byte("A: 2\r\nb:  c\r\n"), Data: fmt.Append(nil, i),
		}); err != nil {
			t.Fatal(err)
		}
	}
	answer, err := c.Request(t.Context(), wire.Message{Subject: "in.last", Data: []byte("end")})
	if err != nil || string(answer) != "to end" {
		t.Errorf("answer %q, %v", answer, err)
	}
	for i := range n {
		m := <-got
		if h := m.Header; m.Subject != fmt.Sprint("in.", i) || string(m.Data) != fmt.Sprint(i) || fmt.Sprint(h["A"], h["b"]) != "[1 2] [c]" {
			t.Fatalf("message %d is %s %v %q", i, m.Subject, m.Header, m.Data)
		}
	}
}

func TestRequests(t *testing.T) {
	s := serve(t)
	listen(t, s, true)
	c := dial(t, s)
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			want := fmt.Sprint("to ", i)
			if got, err := c.Request(t.Context(), wire.Message{Subject: "in.x", Data: fmt.Append(nil, i)}); err != nil || string(got) != want {
				t.Errorf("answer %q, %v; want %q", got, err, want)
			}
		})
	}
	all.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.Request(ctx, wire.Message{Subject: "nobody.hears"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("err = %v, want the deadline", err)
	}
	if _, err := c.Request(t.Context(), wire.Message{Subject: "in.x"}); err != nil {
		t.Errorf("after one without answer: %v", err)
	}
}

// A message that the server would end the connection for is refused before, and
// the next one goes through.
func TestRefused(t *testing.T) {
	s := serve(t)
	listen(t, s, true)
	c := dial(t, s)
	tests := []struct {
		name string
		give wire.Message
		want error
	}{
		{"too large", wire.Message{Subject: "in.x", Data: make([]byte, 4096)}, wire.ErrTooLarge},
		{"too large by its header", wire.Message{Subject: "in.x", First: strings.Repeat("A: 1\r\n", 1000)}, wire.ErrTooLarge},
		{"no subject", wire.Message{}, wire.ErrBadSubject},
		{"space in the subject", wire.Message{Subject: "in.a b"}, wire.ErrBadSubject},
		{"line in the subject", wire.Message{Subject: "in.a\r\nPUB x 0\r\n"}, wire.ErrBadSubject},
		{"long subject", wire.Message{Subject: "in." + strings.Repeat("a", 4000)}, wire.ErrBadSubject},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := c.Publish(tt.give); !errors.Is(err, tt.want) {
				t.Errorf("publish: %v, want %v", err, tt.want)
			}
			if _, err := c.Request(t.Context(), tt.give); !errors.Is(err, tt.want) {
				t.Errorf("request: %v, want %v", err, tt.want)
			}
			if got, err := c.Request(t.Context(), wire.Message{Subject: "in.x", Data: []byte("1")}); err != nil || string(got) != "to 1" {
				t.Errorf("the next one: %q, %v", got, err)
			}
		})
	}
}

func TestEnds(t *testing.T) {
	s := serve(t)
	conn, err := s.InProcessConn()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := wire.Dial(conn, "test", "me", "wrong"); err == nil || !strings.Contains(err.Error(), "Authorization Violation") {
		t.Errorf("with a wrong password: %v", err)
	}
	c := dial(t, s)
	asking := make(chan error)
	go func() {
		_, err := c.Request(t.Context(), wire.Message{Subject: "nobody.hears"})
		asking <- err
	}()
	s.Shutdown()
	if err := <-asking; err == nil {
		t.Error("a request outlives its connection")
	}
	if c.Err() == nil || c.Publish(wire.Message{Subject: "in.x"}) == nil {
		t.Error("the connection does not know that it has ended")
	}
}

func TestLines(t *testing.T) {
	var got []string
	if err := wire.Lines([]byte("a: 1\r\nB:2\r\nc: \r\n"), func(n, v []byte) { got = append(got, string(n)+"="+string(v)) }); err != nil || fmt.Sprint(got) != "[a=1 B=2 c=]" {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"a", "a\r\n", ": 1\r\n", "a: 1\n", "a: 1\nb: 2\r\n", "a: 1\r\n\r\n"} {
		if err := wire.Lines([]byte(bad), func(_, _ []byte) {}); !errors.Is(err, wire.ErrBadHeader) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func BenchmarkPublish(b *testing.B) {
	s, err := server.NewServer(&server.Options{DontListen: true, NoSigs: true})
	if err != nil {
		b.Fatal(err)
	}
	go s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		b.Fatal("the server does not get ready")
	}
	defer s.Shutdown()
	conn, err := s.InProcessConn()
	if err != nil {
		b.Fatal(err)
	}
	c, err := wire.Dial(conn, "bench", "", "")
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	m := wire.Message{Subject: "weft.in.a.orders.created", Header: []byte(strings.Repeat("ce-name: some value\r\n", 8)), Data: make([]byte, 256)}
	b.ReportAllocs()
	for b.Loop() {
		if err := c.Publish(m); err != nil {
			b.Fatal(err)
		}
	}
}
