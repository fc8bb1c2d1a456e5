package mesh_test

import (
	"encoding/json"
	"fmt"
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

	"weft.dev/weft/event"
	"weft.dev/weft/internal/bus"
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

// A site is cut for longer than the other keeps events: first the warning, then
// the exact number.
func TestDoctorNamesTrimming(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	p.stop["a"]()
	a := p.cfg["a"]
	a.Events.MaxBytes = 16 << 20
	p.cfg["a"] = a
	p.start(t, "a")
	publish(t, p.node["a"].Bus(), "orders.created", "read", 10)
	level(t, p.node["a"].Bus(), p.node["b"].Bus(), 10)
	healthy(t, p)
	p.stop["b"]()
	big := func(prefix string, count int) {
		for i := range count {
			e := event.Event{ID: fmt.Sprintf("%s-%d", prefix, i), Data: make([]byte, 64<<10)}
			e.Fill(event.Defaults{Subject: "orders.created", Source: "/test", Now: time.Now()})
			if _, err := p.node["a"].Bus().Publish(t.Context(), bus.Publication{Subject: "orders.created", Event: e}); err != nil {
				t.Fatal(err)
			}
		}
	}
	big("kept", 215) // 13.5 of 16 MiB
	if f := named(t, p.node["a"], "headroom_low"); f.Severity != mesh.SeverityWarning || f.Subject != "b" {
		t.Errorf("finding = %+v", f)
	}
	big("more", 200)
	wefttest.Eventually(t, 20*time.Second, "an error before events go", func() bool {
		return named(t, p.node["a"], "headroom_low").Severity == mesh.SeverityError
	})
	p.start(t, "b")
	want := fmt.Sprintf("%d events were dropped here before site b", 415-count(t, p.node["a"].Bus()))
	// What was under way at the cut counts once the site has said that it did not come.
	wefttest.Eventually(t, 30*time.Second, want, func() bool {
		f := named(t, p.node["a"], "events_lost")
		return f.Severity == mesh.SeverityError && strings.HasPrefix(f.What, want)
	})
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
	// Whoever notices first closes the connection; the other then sees it closed.
	var by *mesh.Node
	wefttest.Eventually(t, 30*time.Second, "a site that names it", func() bool {
		for _, n := range p.node {
			for _, f := range diagnosis(t, n).Findings {
				if f.Code == "link_wedged" && f.Severity == mesh.SeverityError {
					by = n
				}
			}
		}
		return by != nil
	})
	w.set(false, false)
	wefttest.Eventually(t, 20*time.Second, "only a warning once it is up again", func() bool {
		return named(t, by, "link_wedged").Severity == mesh.SeverityWarning
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
	for _, name := range []string{"a", "b"} {
		if f := named(t, p.node[name], "link_refused"); f.Severity != mesh.SeverityError || !strings.Contains(f.What, "secret") {
			t.Errorf("finding at %s = %+v, want the setting", name, f)
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

// A node of three goes: the site goes on, and the doctor names it at the others.
// With another one gone, nothing is accepted any more, and the last one says so.
func TestDoctorOfACluster(t *testing.T) {
	t.Parallel()
	c := wefttest.NewCluster(t, "a", 3, nil)
	var st mesh.Status
	wefttest.Eventually(t, 20*time.Second, "three nodes with current replicas", func() bool {
		var err error
		st, err = c.Nodes[0].Status(t.Context())
		ok := err == nil && len(st.Nodes) == 3 && len(st.Stream.Replicas) == 3 && st.Stream.Leader != ""
		for _, n := range st.Nodes {
			ok = ok && n.Up && n.ClusterSize == 3 && n.Self == (n.Node == "a-1") && n.Leader == (n.Node == st.Stream.Leader)
		}
		for _, r := range st.Stream.Replicas {
			ok = ok && r.Up && r.Current && r.Leader == (r.Node == st.Stream.Leader)
		}
		return ok
	})
	if d := diagnosis(t, c.Nodes[0]); len(d.Findings) > 0 && !strings.HasPrefix(d.Findings[0].Code, "disk_") {
		t.Errorf("findings at a healthy site: %+v", d.Findings)
	}
	c.Stop(2)
	if f := named(t, c.Nodes[0], "node_down"); f.Subject != "a-3" {
		t.Errorf("finding = %+v", f)
	}
	c.Stop(1)
	if f := named(t, c.Nodes[0], "no_quorum"); f.Severity != mesh.SeverityError {
		t.Errorf("finding = %+v", f)
	}
}

// What cannot be staged on every machine is diagnosed from a state.
func TestDiagnose(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	sound := func() mesh.Status {
		leader := mesh.Replica{Node: "a-1", Leader: true, Up: true, Current: true}
		stream := mesh.StreamStatus{Name: "EVENTS", Leader: "a-1", MaxBytes: 10 << 30, Bytes: 1 << 30, Replicas: []mesh.Replica{leader}}
		return mesh.Status{
			Site: "a", Node: "a-1", Version: "1", At: at, Stream: stream, Streams: []mesh.StreamStatus{stream},
			Nodes: []mesh.NodeStatus{{Node: "a-1", Version: "1", Up: true, Disk: &mesh.Disk{Free: 100 << 30, Total: 200 << 30}}},
			Links: []mesh.LinkStatus{{Site: "b", Version: "1", Up: true, Importing: true, Since: at.Add(-time.Hour)}},
		}
	}
	other := mesh.NodeStatus{Node: "a-2", Version: "1", Up: true}
	tests := []struct {
		name string
		give func(*mesh.Status)
		want string // severities and codes
	}{
		{"sound", func(*mesh.Status) {}, ""},
		{"disk full", func(s *mesh.Status) { s.Nodes[0].Disk.Full = true }, "error disk_full"},
		{"disk about to be full", func(s *mesh.Status) { s.Nodes[0].Disk.Free = 100 << 20 }, "error disk_low"},
		{"a twentieth of the disk", func(s *mesh.Status) { s.Nodes[0].Disk.Total = 2100 << 30 }, "warning disk_low"},
		{"disk smaller than the stream may be", func(s *mesh.Status) { s.Nodes[0].Disk.Free = 8 << 30 }, "warning disk_low"},
		{"two nodes", func(s *mesh.Status) { s.Nodes = append(s.Nodes, other) }, "warning even_nodes"},
		{"no leader", func(s *mesh.Status) { s.Stream.Leader = "" }, "error no_leader"},
		{"replica behind", func(s *mesh.Status) { s.Streams[0].Replicas[0].Current = false }, "warning replica_behind"},
		{"clocks 4 s apart", func(s *mesh.Status) { s.Links[0].ClockOffset = -4 }, ""},
		{"clocks 6 s apart", func(s *mesh.Status) { s.Links[0].ClockOffset = -6 }, "warning clock_skew"},
		{"another version", func(s *mesh.Status) { s.Links[0].Version = "2" }, "info version_differs"},
		{"just started", func(s *mesh.Status) { s.Links[0].Up, s.Links[0].Since = false, at.Add(-time.Second) }, ""},
		{"down", func(s *mesh.Status) { s.Links[0].Up = false }, "error link_down"},
		{"refused", func(s *mesh.Status) { s.Links[0].Up, s.Links[0].Refused = false, true }, "error link_refused"},
		{"down, connection stands", func(s *mesh.Status) { s.Links[0].Up, s.Links[0].Connections = false, 1 }, "error link_wedged"},
		{"rolled back", func(s *mesh.Status) {
			s.Links[0].Incidents = []mesh.Incident{{Kind: "rolled_back", Count: 1, Last: at.Add(-time.Hour)}}
		}, "error rolled_back"},
		{"rolled back long ago", func(s *mesh.Status) {
			s.Links[0].Incidents = []mesh.Incident{{Kind: "rolled_back", Count: 1, Last: at.Add(-48 * time.Hour)}}
		}, ""},
		{"the worst first", func(s *mesh.Status) { s.Links[0].ClockOffset, s.Nodes[0].Disk.Free = 9, 1 }, "error disk_low, warning clock_skew"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			st := sound()
			tt.give(&st)
			var got []string
			for _, f := range mesh.Diagnose(st).Findings {
				got = append(got, f.Severity+" "+f.Code)
			}
			if s := strings.Join(got, ", "); s != tt.want {
				t.Errorf("findings = %q, want %q", s, tt.want)
			}
		})
	}
}
