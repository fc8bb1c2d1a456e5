// Package partner is what a partner of the shop runs: an HTTP receiver of
// webhooks that trusts only what is signed. It uses the official Standard
// Webhooks library and nothing of Weft. It makes no compatibility promise.
package partner

import (
	"encoding/json"
	"io"
	"net/http"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// Receiver answers 204 to a delivery that verifies, 401 to any other.
type Receiver struct {
	hook     *standardwebhooks.Webhook
	received func(eventID string, body []byte)
}

// New makes a receiver for one endpoint's whsec_ secret. received is called once
// for every verified delivery, from the server's goroutines.
func New(secret string, received func(eventID string, body []byte)) (*Receiver, error) {
	hook, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		return nil, err
	}
	return &Receiver{hook: hook, received: received}, nil
}

// ServeHTTP takes one delivery.
func (p *Receiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil {
		http.Error(w, "body too large", http.StatusRequestEntityTooLarge)
		return
	}
	if err := p.hook.Verify(body, r.Header); err != nil {
		http.Error(w, "signature: "+err.Error(), http.StatusUnauthorized)
		return
	}
	var ce struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal(body, &ce); err != nil {
		http.Error(w, "want a CloudEvent as JSON", http.StatusBadRequest)
		return
	}
	p.received(ce.ID, body)
	w.WriteHeader(http.StatusNoContent)
}
