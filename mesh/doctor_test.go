package mesh_test

import (
	"encoding/json"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/prometheus/client_golang/prometheus"

	"weft.dev/weft/internal/conf"
	"weft.dev/weft/internal/wefttest"
	"weft.dev/weft/mesh"
)

// diagnosis asks a node's API.
func diagnosis(t *testing.T, n *mesh.Node) mesh.Diagnosis {
	t.Helper()
	w := httptest.NewRecorder()
	n.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/api/mesh/doctor", nil))
	var d mesh.Diagnosis
	if err := json.Unmarshal(w.Body.Bytes(), &d); err != nil || w.Code != http.StatusOK {
		t.Fatalf("%d, %v: %s", w.Code, err, w.Body)
	}
	for _, f := range d.Findings {
		if f.What == "" || f.Why == "" || f.Do == "" || f.Subject == "" {
			t.Errorf("an unfinished finding: %+v", f)
		}
	}
	return d
}

// names waits until the doctor names a fault and returns the finding. Before it
// was staged the doctor must not have named it.
func named(t *testing.T, n *mesh.Node, code string) (found mesh.Finding) {
	t.Helper()
	var last mesh.Diagnosis
	defer func() {
		if t.Failed() {
			t.Logf("findings: %+v", last.Findings)
		}
	}()
	wefttest.Eventually(t, 30*time.Second, "finding "+code, func() bool {
		last = diagnosis(t, n)
		i := slices.IndexFunc(last.Findings, func(f mesh.Finding) bool { return f.Code == code })
		if i >= 0 {
			found = last.Findings[i]
		}
		return i >= 0
	})
	return found
}

// healthy waits until both sites of a pair are linked and the doctor finds
// nothing at either.
func healthy(t *testing.T, p *pair) {
	t.Helper()
	for _, n := range p.node {
		var d mesh.Diagnosis
		wefttest.Eventually(t, 20*time.Second, "nothing to find at "+n.Site, func() bool {
			st, err := n.Status(t.Context())
			d = diagnosis(t, n)
			d.Findings = slices.DeleteFunc(d.Findings, func(f mesh.Finding) bool { return strings.HasPrefix(f.Code, "disk_") })
			return err == nil && st.Links[0].Up && st.Links[0].Importing && len(d.Findings) == 0
		})
	}
}

func TestDoctorNamesRollBack(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	publish(t, p.node["a"].Bus(), "orders.created", "1", 100)
	level(t, p.node["a"].Bus(), p.node["b"].Bus(), 100)
	healthy(t, p)
	p.stop["a"]()
	backup := t.TempDir()
	copyDir(t, p.deps["a"].Dir, backup)
	p.start(t, "a")
	publish(t, p.node["a"].Bus(), "orders.created", "2", 100)
	level(t, p.node["a"].Bus(), p.node["b"].Bus(), 200)
	p.stop["a"]()
	if err := os.RemoveAll(p.deps["a"].Dir); err != nil {
		t.Fatal(err)
	}
	copyDir(t, backup, p.deps["a"].Dir)
	p.start(t, "a")
	if f := named(t, p.node["b"], "rolled_back"); f.Severity != mesh.SeverityError || f.Subject != "a" {
		t.Errorf("finding = %+v", f)
	}
}

func copyDir(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		if !d.Type().IsRegular() { // where commits are staged in memory
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), data, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A link user that may ask, but is not let to events or acknowledgements.
func TestDoctorNamesMissingPermission(t *testing.T) {
	t.Parallel()
	all := func(s string) *server.SubjectPermission { return &server.SubjectPermission{Allow: []string{s}} }
	tests := []struct {
		name  string
		give  server.Permissions // of b at a
		stuck string             // subjects that do not come
	}{
		{"events", server.Permissions{Publish: all("wl.a.b.>"), Subscribe: &server.SubjectPermission{Allow: []string{"wl.b.a.>"}, Deny: []string{"wl.b.a.evt.>"}}}, "wl.b.a.>"},
		{"acknowledgements", server.Permissions{Publish: &server.SubjectPermission{Allow: []string{"wl.a.b.>"}, Deny: []string{"wl.a.b.ack.>"}}, Subscribe: all("wl.b.a.>")}, "wl."}, // either side may find it first
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			healthy(t, p)
			if err := p.node["a"].Restrict("b", &tt.give); err != nil {
				t.Fatal(err)
			}
			f := named(t, p.node["b"], "link_stalled")
			if f.Severity != mesh.SeverityError || !strings.Contains(f.What, tt.stuck) {
				t.Errorf("finding = %+v, want %s in it", f, tt.stuck)
			}
		})
	}
}

// A network that swallows all bytes: the connection stands, no answer comes.
func TestDoctorNamesWedgedLink(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.stop["b"]()
	w := newWAN(t, p.node["a"].LinkURL()[len("nats://"):])
	p.cfg["b"].Links.Sites[0].URLs = []string{"nats://" + w.Addr().String()}
	p.start(t, "b")
	healthy(t, p)
	w.set(true, true)
	if f := named(t, p.node["b"], "link_wedged"); f.Severity != mesh.SeverityError || f.Subject != "a" {
		t.Errorf("finding = %+v", f)
	}
	w.set(false, false)
	wefttest.Eventually(t, 20*time.Second, "only a warning once it is up again", func() bool {
		return named(t, p.node["b"], "link_wedged").Severity == mesh.SeverityWarning
	})
}

func TestDoctorNamesClockSkew(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	healthy(t, p)
	p.stop["b"]()
	d := p.deps["b"]
	d.Now = func() time.Time { return time.Now().Add(time.Minute) }
	p.deps["b"] = d
	p.start(t, "b")
	for name, want := range map[string]string{"a": "ahead of", "b": "behind"} {
		if f := named(t, p.node[name], "clock_skew"); !strings.Contains(f.What, want) || !strings.Contains(f.What, "1m0s") {
			t.Errorf("finding at %s = %+v, want %s", name, f, want)
		}
	}
	got, err := p.deps["a"].Metrics.(*prometheus.Registry).Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range got {
		if m.GetName() != "weft_mesh_link_clock_offset_seconds" {
			continue
		}
		if v := m.GetMetric()[0].GetGauge().GetValue(); v < 59 || v > 61 {
			t.Errorf("offset = %v s", v)
		}
		return
	}
	t.Error("no metric of the clock's offset")
}

func TestDoctorNamesWrongSecret(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	healthy(t, p)
	p.stop["b"]()
	p.cfg["b"].Links.Sites[0].Secret = conf.Secret("not-the-secret-of-the-link")
	p.start(t, "b")
	for name, want := range map[string]string{"a": "this site refuses that one", "b": "that site refuses this one"} {
		if f := named(t, p.node[name], "link_refused"); f.Severity != mesh.SeverityError || !strings.Contains(f.What, want) {
			t.Errorf("finding at %s = %+v, want %q in it", name, f, want)
		}
	}
}

func TestDoctorNamesLinkDown(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	healthy(t, p)
	p.stop["a"]()
	if f := named(t, p.node["b"], "link_down"); !strings.Contains(f.What, "connection refused") || !strings.Contains(f.Do, "urls") {
		t.Errorf("finding = %+v, want the reason", f)
	}
}
