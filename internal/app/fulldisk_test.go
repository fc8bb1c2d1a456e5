package app_test

import (
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"weft.dev/weft/internal/wefttest"
)

// A node whose disk is full is not ready and says why to whoever asks, and is
// ready again when there is space.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	if err := os.MkdirAll(cfg.Data, 0o700); err != nil {
		t.Fatal(err)
	}
	v := wefttest.Mount(t, cfg.Data)
	n := run(t, cfg)
	admin, events := "http://"+n.Addr("admin"), "http://"+n.Addr("gateway")+"/v1/events/orders.created"
	v.Fill()
	wefttest.Eventually(t, 5*time.Second, "the node not ready", func() bool {
		status, body := request(t, http.MethodGet, admin+"/readyz", nil)
		return status == http.StatusServiceUnavailable && strings.Contains(body, "the disk is full: node ")
	})
	if status, body := request(t, http.MethodPost, events, nil); status != http.StatusServiceUnavailable || !strings.Contains(body, "/problems/disk-full") {
		t.Errorf("publish = %d %s", status, body)
	}
	if _, body := request(t, http.MethodGet, admin+"/metrics", nil); !strings.Contains(body, "weft_mesh_disk_full 1") || !strings.Contains(body, "weft_mesh_disk_free_bytes") {
		t.Error("no metric of the full disk")
	}
	v.Free()
	wefttest.Eventually(t, 20*time.Second, "events taken again", func() bool {
		ready, _ := request(t, http.MethodGet, admin+"/readyz", nil)
		status, _ := request(t, http.MethodPost, events, nil)
		return ready == http.StatusOK && status == http.StatusAccepted
	})
}
