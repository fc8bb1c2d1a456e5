package ui_test

import (
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"weft.dev/weft/ui"
)

func get(t *testing.T, method, path string, header map[string]string) *httptest.ResponseRecorder {
	t.Helper()
	h, err := ui.Handler()
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequestWithContext(t.Context(), method, path, nil)
	for k, v := range header {
		r.Header.Set(k, v)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// asset finds a file the page refers to.
func asset(t *testing.T, pattern string) string {
	t.Helper()
	page := get(t, http.MethodGet, "/", nil).Body.String()
	name := regexp.MustCompile(pattern).FindString(page)
	if name == "" {
		t.Fatalf("the page does not refer to %s:\n%s", pattern, page)
	}
	return name
}

func TestHandler(t *testing.T) {
	script := asset(t, `/assets/[\w-]+\.js`)
	tests := []struct {
		name, method, path string
		status             int
		contentType, cache string
	}{
		{"page", http.MethodGet, "/", 200, "text/html", "no-cache"},
		{"view", http.MethodGet, "/journeys/order-7.b", 200, "text/html", "no-cache"},
		{"script", http.MethodGet, script, 200, "text/javascript", "public, max-age=31536000, immutable"},
		{"head", http.MethodHead, "/live", 200, "text/html", "no-cache"},
		{"lost asset", http.MethodGet, "/assets/old.js", 404, "text/plain", ""},
		{"unknown api", http.MethodGet, "/api/nothing", 404, "text/plain", ""},
		{"unknown v1", http.MethodGet, "/v1/nothing", 404, "text/plain", ""},
		{"post", http.MethodPost, "/", 405, "text/plain", ""},
		{"no escape", http.MethodGet, "/../ui.go", 200, "text/html", "no-cache"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := get(t, tt.method, tt.path, nil)
			if w.Code != tt.status || !strings.HasPrefix(w.Header().Get("Content-Type"), tt.contentType) || w.Header().Get("Cache-Control") != tt.cache {
				t.Errorf("answer = %d, %q, %q", w.Code, w.Header().Get("Content-Type"), w.Header().Get("Cache-Control"))
			}
			if w.Code == 200 && !strings.HasPrefix(w.Header().Get("Content-Security-Policy"), "default-src 'self'") {
				t.Error("no content security policy")
			}
			if tt.method == http.MethodHead && w.Body.Len() > 0 {
				t.Error("HEAD has a body")
			}
		})
	}
}

func TestEntityTag(t *testing.T) {
	tag := get(t, http.MethodGet, "/", nil).Header().Get("ETag")
	for _, give := range []string{tag, "W/" + tag, `"x", ` + tag} {
		if w := get(t, http.MethodGet, "/", map[string]string{"If-None-Match": give}); w.Code != http.StatusNotModified || w.Body.Len() > 0 {
			t.Errorf("If-None-Match %s: %d with %d bytes, want 304", give, w.Code, w.Body.Len())
		}
	}
}

func TestCompressed(t *testing.T) {
	script := asset(t, `/assets/[\w-]+\.js`)
	plain := get(t, http.MethodGet, script, nil)
	zipped := get(t, http.MethodGet, script, map[string]string{"Accept-Encoding": "gzip, br"})
	if zipped.Header().Get("Content-Encoding") != "gzip" {
		t.Fatal("not compressed")
	}
	z, err := gzip.NewReader(zipped.Body)
	if err != nil {
		t.Fatal(err)
	}
	back, err := io.ReadAll(z)
	if err != nil || string(back) != plain.Body.String() {
		t.Errorf("unpacked differs from plain: %v", err)
	}
}

// TestFirstLoad holds the page to what a slow line can carry.
func TestFirstLoad(t *testing.T) {
	const budget = 80 << 10
	total := 0
	for _, path := range []string{"/", asset(t, `/assets/[\w-]+\.js`), asset(t, `/assets/[\w-]+\.css`)} {
		total += get(t, http.MethodGet, path, map[string]string{"Accept-Encoding": "gzip"}).Body.Len()
	}
	if total > budget {
		t.Errorf("first load is %d bytes compressed, the budget is %d", total, budget)
	}
}

// TestPageIsSelfContained keeps other origins out of what is served.
func TestPageIsSelfContained(t *testing.T) {
	files, err := filepath.Glob("dist/*.html")
	if err != nil || len(files) == 0 {
		t.Fatal("no page", err)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(data), "://") || regexp.MustCompile(`<script[^>]*>[^<]|<style| style=`).Match(data) {
			t.Errorf("%s refers to another origin or holds inline script or style", name)
		}
	}
}
