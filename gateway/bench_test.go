package gateway_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/gorilla/websocket"

	"weft.dev/weft/gateway"
	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/obs"
	"weft.dev/weft/internal/wefttest"
)

// serve runs a gateway for a benchmark.
func serve(b *testing.B, log gateway.Log, pub interface {
	Publish(context.Context, bus.Publication) (bus.Ack, error)
	PublishAll(context.Context, []bus.Publication) []bus.Result
},
) string {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	s, err := gateway.New(gateway.DefaultConfig(), gateway.Deps{Scope: obs.Discard(), Log: log, Publisher: pub, Site: "test", Node: "n1", Listener: l})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	<-s.Ready()
	b.Cleanup(func() {
		cancel()
		<-done
	})
	return l.Addr().String()
}

// BenchmarkPublish is events stored per second over HTTP by 64 connections that
// each wait for their answer, on one node with sync always.
func BenchmarkPublish(b *testing.B) {
	node := wefttest.Node(b)
	addr := serve(b, node, node)
	request := fmt.Sprintf("POST /v1/events/orders.created HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: 256\r\n\r\n%s", addr, strings.Repeat("x", 256))
	const conns = 64
	var left atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	for range conns {
		wg.Go(func() {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				b.Error(err)
				return
			}
			defer c.Close()
			r := bufio.NewReader(c)
			for left.Add(-1) >= 0 {
				if _, err := io.WriteString(c, request); err != nil {
					b.Error(err)
					return
				}
				resp, err := http.ReadResponse(r, nil)
				if err != nil || resp.StatusCode != http.StatusAccepted {
					b.Errorf("answer %v: %v", resp, err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkFanOut is deliveries per second of 256-byte events to 500 sockets on
// one feed, the sockets' own reading included.
func BenchmarkFanOut(b *testing.B) {
	for _, caps := range []string{"", `"evs"`} {
		b.Run("caps="+caps, func(b *testing.B) { fanOut(b, caps) })
	}
}

func fanOut(b *testing.B, caps string) {
	const sockets = 500
	m := newMemory()
	addr := serve(b, m, m)
	var wg sync.WaitGroup
	var ready sync.WaitGroup
	ready.Add(sockets)
	events := uint64(max(b.N/sockets, 1))
	for range sockets {
		wg.Go(func() {
			d := websocket.Dialer{Subprotocols: []string{gateway.Subprotocol}}
			ws, resp, err := d.Dial("ws://"+addr+"/v1/ws", nil)
			if err != nil {
				b.Errorf("%v: %v", resp, err)
				ready.Done()
				return
			}
			defer ws.Close()
			_ = ws.WriteMessage(websocket.TextMessage, []byte(`{"t":"hello","v":1,"caps":[`+caps+`]}`))
			_ = ws.WriteMessage(websocket.TextMessage, []byte(`{"t":"sub","id":"a","subject":">"}`))
			live := false
			for got := uint64(0); got < events; {
				_, data, err := ws.ReadMessage()
				if err != nil {
					b.Error(err)
					return
				}
				switch text := string(data); {
				case strings.HasPrefix(text, `{"t":"ev`):
					got += uint64(strings.Count(text, `"specversion"`))
				case strings.HasPrefix(text, `{"t":"live"`) && !live:
					live = true
					ready.Done()
				}
			}
		})
	}
	ready.Wait()
	b.ResetTimer()
	for range events {
		m.put("orders.created", strings.Repeat("x", 150))
	}
	wg.Wait()
	b.ReportMetric(float64(events*sockets)/b.Elapsed().Seconds(), "deliveries/s")
}
