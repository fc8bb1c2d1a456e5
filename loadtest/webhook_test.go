package loadtest_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"weft.dev/weft/gateway/webhook"
	"weft.dev/weft/internal/bus"
	"weft.dev/weft/internal/obs"
	"weft.dev/weft/loadtest"
)

func hooks(server string) loadtest.WebhookConfig {
	c := loadtest.DefaultWebhook()
	c.Server, c.Duration, c.Warmup, c.Rate = server, 500*time.Millisecond, 100*time.Millisecond, 100
	c.Endpoints, c.Connections = 3, 2
	return c
}

func TestWebhookThroughANode(t *testing.T) {
	url := node(t, func(b *bus.Bus) map[string]http.Handler {
		cfg := webhook.DefaultConfig()
		cfg.AllowNetworks = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		s, err := webhook.New(cfg, webhook.Deps{Scope: obs.Discard(), Source: b, Conn: b.Conn(), Site: "test", Node: "test-1"})
		if err != nil {
			t.Fatal(err)
		}
		runUntilEnd(t, s.Run)
		<-s.Ready()
		h := s.Handler()
		return map[string]http.Handler{"/v1/webhooks": h, "/v1/webhooks/": h}
	})
	r, err := loadtest.Webhook(t.Context(), hooks(url), nil)
	if err != nil || r.Failed() != nil || len(r.Errors) > 0 {
		t.Fatalf("%v, %v, errors %v, %+v", err, r.Failed(), r.Errors, r.Delivery)
	}
	if d := r.Delivery; d.Delivered < r.Accepted || d.Duplicates > 0 || d.Latency.Count == 0 {
		t.Errorf("delivery = %+v of %d accepted", d, r.Accepted)
	}
	if got := get(t, url+"/v1/webhooks"); strings.Contains(got, "weft load") {
		t.Errorf("endpoints are left: %s", got)
	}
}

func get(t *testing.T, url string) string {
	t.Helper()
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return string(b)
}

// TestWebhookTellsWhatIsWrong: a node that signs wrongly and refuses the third
// endpoint.
func TestWebhookTellsWhatIsWrong(t *testing.T) {
	var target atomic.Value
	var deleted atomic.Int64
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/webhooks", func(w http.ResponseWriter, r *http.Request) {
		var in struct{ URL string }
		_ = json.NewDecoder(r.Body).Decode(&in)
		target.Store(in.URL)
		if strings.HasSuffix(in.URL, "/2") {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = io.WriteString(w, `{"title":"Refused","detail":"url: want a public address"}`)
			return
		}
		_, _ = io.WriteString(w, `{"id":"wh_`+in.URL[len(in.URL)-1:]+`","secret":"whsec_c2VjcmV0"}`)
	})
	mux.HandleFunc("DELETE /v1/webhooks/{id}", func(w http.ResponseWriter, _ *http.Request) {
		deleted.Add(1)
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("POST /v1/events/{subject}", func(w http.ResponseWriter, r *http.Request) {
		req, _ := http.NewRequestWithContext(context.WithoutCancel(r.Context()), http.MethodPost, target.Load().(string), r.Body)
		req.Header.Set("Webhook-Signature", "v1,bm90")
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
		}
		w.WriteHeader(http.StatusAccepted)
	})
	srv := httptest.NewServer(mux)
	defer srv.Close()

	cfg := hooks(srv.URL)
	_, err := loadtest.Webhook(t.Context(), cfg, nil)
	if err == nil || !strings.Contains(err.Error(), "create webhook 3 of 3") || !strings.Contains(err.Error(), "want a public address") {
		t.Errorf("err = %v, want the refusal", err)
	}
	if deleted.Load() != 2 {
		t.Errorf("%d endpoints deleted after the failure, want the 2 that were made", deleted.Load())
	}
	cfg.Endpoints = 1
	r, err := loadtest.Webhook(t.Context(), cfg, nil)
	if err != nil || r.Delivery.BadSignatures == 0 || r.Delivery.Lost != 0 {
		t.Fatalf("%v, %+v", err, r.Delivery)
	}
	if r.Failed() == nil {
		t.Error("wrong signatures did not fail the run")
	}
	if deleted.Load() != 3 {
		t.Errorf("%d endpoints deleted, want 3", deleted.Load())
	}
}
