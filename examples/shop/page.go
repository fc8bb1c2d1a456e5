package shop

import (
	"embed"
	"encoding/json"
	"io/fs"
	"net/http"
)

//go:embed web
var web embed.FS

// Page serves the order board, a browser page that follows the shop through the
// WebSocket of the given gateway and links to the journeys of the given console.
func Page(gateway, console string) http.Handler {
	files, err := fs.Sub(web, "web")
	if err != nil {
		panic(err) // the folder is compiled in
	}
	mux := http.NewServeMux()
	mux.Handle("/", http.FileServerFS(files))
	mux.HandleFunc("GET /config.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]string{"gateway": gateway, "console": console})
	})
	return mux
}
