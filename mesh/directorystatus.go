package mesh

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"weft.dev/weft/internal/conf"
	"weft.dev/weft/internal/httpd"
)

// DirectoryStatus is the directory of sites as a node sees it.
type DirectoryStatus struct {
	On    bool         `json:"on"` // the configuration has mesh.links.directory
	Sites []SiteStatus `json:"sites"`
	// Joins are the addresses of mesh.links.directory.join.
	Joins     []JoinStatus    `json:"joins"`
	Forgotten []ForgottenSite `json:"forgotten"`
}

// SiteStatus is one site of the directory.
type SiteStatus struct {
	Site      string    `json:"site"`
	Role      string    `json:"role"`
	URLs      []string  `json:"urls"`
	Homes     []string  `json:"homes"` // of an edge
	Export    []string  `json:"export"`
	PublicKey string    `json:"publicKey"`
	Issued    time.Time `json:"issued"` // when it said so
	Self      bool      `json:"self"`
	Linked    bool      `json:"linked"`
	Up        bool      `json:"up"`
	ByHand    bool      `json:"byHand"` // mesh.links.sites says how
}

// JoinStatus is an address to join by.
type JoinStatus struct {
	URL     string `json:"url"`
	Site    string `json:"site,omitempty"` // that it led to
	Problem string `json:"problem,omitempty"`
}

// ForgottenSite is one that is not let in again.
type ForgottenSite struct {
	Site      string    `json:"site"`
	PublicKey string    `json:"publicKey"`
	By        string    `json:"by"`
	At        time.Time `json:"at"`
}

// Directory is the directory of sites as this node sees it.
func (n *Node) Directory() DirectoryStatus {
	st := DirectoryStatus{Sites: []SiteStatus{}, Joins: []JoinStatus{}, Forgotten: []ForgottenSite{}}
	d := n.directory
	if d == nil {
		return st
	}
	st.On = true
	b, _ := d.snapshot()
	for _, c := range b.cells() {
		s := SiteStatus{
			Site: c.Site, Role: c.Role, URLs: append([]string{}, c.URLs...), Homes: append([]string{}, c.Homes...),
			Export: append([]string{}, c.Export...), PublicKey: c.PublicKey, Issued: time.UnixMilli(c.Issued), Self: c.Site == n.Site,
		}
		if l := n.links.by(c.Site); l != nil {
			s.Linked, s.Up, s.ByHand = true, l.isUp(), l.listed()
		}
		st.Sites = append(st.Sites, s)
	}
	for _, t := range b.tombstones() {
		st.Forgotten = append(st.Forgotten, ForgottenSite{t.Site, t.PublicKey, t.By, time.UnixMilli(t.At)})
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, u := range d.cfg.Join {
		st.Joins = append(st.Joins, JoinStatus{URL: u, Site: d.joined[joinedKey(u)].Site, Problem: d.joins[u]})
	}
	return st
}

var (
	errNoSite   = errors.New("no such site in the directory")
	errNotHere  = errors.New("not at this site")
	errNoAnswer = errors.New("the directory does not answer")
)

// Forget takes a site out of the directory, here and at all other sites, and does
// not let its NKey in again. Its name is free for another.
func (n *Node) Forget(ctx context.Context, site string) error {
	d := n.directory
	switch {
	case d == nil:
		return fmt.Errorf("forget site %s: %w: mesh.links.directory is not set", site, errNotHere)
	case site == n.Site:
		return fmt.Errorf("forget site %s: %w: ask at another site", site, errNotHere)
	case d.cfg.Role == roleEdge:
		return fmt.Errorf("forget site %s: %w: it is an edge; ask at a core site", site, errNotHere)
	}
	done := make(chan error, 1)
	d.offer(func(ctx context.Context) {
		b, _ := d.snapshot()
		c, there := b.sites[site]
		if !there {
			done <- errNoSite
			return
		}
		done <- d.bury(ctx, tombstone{Site: site, PublicKey: c.PublicKey, By: n.Site, At: n.Now().UnixMilli()})
	})
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("forget site %s: %w", site, err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("forget site %s: %w: %w", site, errNoAnswer, ctx.Err())
	}
}

// serveForget serves DELETE /api/mesh/sites/{site}.
func (n *Node) serveForget(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("site")
	err := conf.Name("site", name)
	if err == nil {
		err = n.Forget(r.Context(), name)
	} else {
		err = fmt.Errorf("%w: %w", errNoSite, err)
	}
	switch {
	case err == nil:
		httpd.WriteJSON(w, http.StatusOK, map[string]string{"forgotten": name})
	case errors.Is(err, errNotHere):
		httpd.WriteProblem(w, httpd.Problem{Type: "conflict", Status: http.StatusConflict, Detail: err.Error()})
	case errors.Is(err, errNoSite):
		httpd.WriteProblem(w, httpd.Problem{Type: "not-found", Status: http.StatusNotFound, Detail: err.Error()})
	default:
		httpd.WriteProblem(w, httpd.Problem{Type: "unavailable", Status: http.StatusServiceUnavailable, RetryAfter: time.Second, Detail: err.Error()})
	}
}
