// Package ui serves the console: a page of the node that shows the mesh, journeys of events and a live tail. It holds
// only the built page and how to serve it; the data comes from the JSON API of the admin listener. It makes no
// compatibility promise.
package ui

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
)

// dist is built from web by `npm run build` and committed, so that building Weft needs only Go.
//
//go:embed all:dist
var dist embed.FS

// policy allows the page its own origin and nothing else; no inline script or style.
const policy = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"

// page is one file of the console, ready to send.
type page struct {
	contentType  string
	etag         string
	cacheControl string
	plain        []byte
	// zipped compresses the file when it is first asked for, as a compressor takes most of a megabyte and many nodes
	// never show their console; nil when gzip does not make the file smaller.
	zipped func() []byte
}

// handler serves the files; immutable after New.
type handler struct {
	pages map[string]page // by URL path
	index page
}

// Handler returns the console. Mount it at "/" below everything more specific: paths it does not know get the page,
// which draws the view that the path names. Paths of the APIs (/api/, /v1/) that reach it are answered 404.
func Handler() (http.Handler, error) {
	h := &handler{pages: map[string]page{}}
	err := fs.WalkDir(dist, "dist", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := dist.ReadFile(name)
		if err != nil {
			return err
		}
		p, err := newPage(name, data)
		if err != nil {
			return err
		}
		h.pages[strings.TrimPrefix(name, "dist")] = p
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the console: %w", err)
	}
	index, ok := h.pages["/index.html"]
	if !ok {
		return nil, fmt.Errorf("read the console: dist/index.html is missing; run npm run build in ui/web")
	}
	h.index = index
	return h, nil
}

// types are the content types of the console's files, by the end of their names. The system's own list would do too,
// but it is long, and reading it stays in memory.
var types = map[string]string{
	".html": "text/html; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".svg":  "image/svg+xml",
}

func newPage(name string, data []byte) (page, error) {
	contentType, ok := types[path.Ext(name)]
	if !ok {
		return page{}, fmt.Errorf("%s: no content type for files of this kind; add it to types", name)
	}
	sum := sha256.Sum256(data)
	p := page{
		contentType:  contentType,
		etag:         `"` + hex.EncodeToString(sum[:12]) + `"`,
		cacheControl: "no-cache", // may be kept, but must be checked
		plain:        data,
		zipped:       sync.OnceValue(func() []byte { return zip(data) }),
	}
	if strings.HasPrefix(name, "dist/assets/") { // the name holds a hash of the content
		p.cacheControl = "public, max-age=31536000, immutable"
	}
	return p, nil
}

// zip compresses data, or returns nil when that does not make it smaller.
func zip(data []byte) []byte {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil // the level is valid
	}
	_, err = z.Write(data)
	if err != nil || z.Close() != nil || b.Len() >= len(data) {
		return nil
	}
	return b.Bytes()
}

// ServeHTTP answers with a file or, for a path of a view, with the page.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "the console only answers GET", http.StatusMethodNotAllowed)
		return
	}
	p, ok := h.pages[r.URL.Path]
	if !ok {
		if reserved(r.URL.Path) {
			http.NotFound(w, r)
			return
		}
		p = h.index
	}
	p.serve(w, r)
}

// reserved paths never show the page: a mistyped API path or a lost asset must be seen as missing.
func reserved(urlPath string) bool {
	for _, prefix := range []string{"/api/", "/v1/", "/assets/", "/tempo/"} {
		if strings.HasPrefix(urlPath, prefix) {
			return true
		}
	}
	return false
}

func (p page) serve(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cache-Control", p.cacheControl)
	h.Set("ETag", p.etag)
	h.Set("Vary", "Accept-Encoding")
	if matches(r.Header.Get("If-None-Match"), p.etag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	body := p.plain
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		if z := p.zipped(); z != nil {
			h.Set("Content-Encoding", "gzip")
			body = z
		}
	}
	h.Set("Content-Type", p.contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if r.Method == http.MethodGet {
		_, _ = w.Write(body) // the browser went away; nothing to do about it
	}
}

// matches reports whether an If-None-Match header names the tag; weak tags match too.
func matches(header, etag string) bool {
	for part := range strings.SplitSeq(header, ",") {
		part = strings.TrimPrefix(strings.TrimSpace(part), "W/")
		if part == etag || part == "*" {
			return true
		}
	}
	return false
}
