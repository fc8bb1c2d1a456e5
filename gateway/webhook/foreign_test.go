package webhook_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"weft.dev/weft/internal/wefttest"
)

// verifier checks requests, one JSON object per line, with the official
// JavaScript library, and parses the event with the official CloudEvents one.
const verifier = `
import { Webhook } from "standardwebhooks";
import { HTTP } from "cloudevents";
import { createInterface } from "node:readline";
for await (const line of createInterface({ input: process.stdin })) {
  const { secret, headers, body } = JSON.parse(line);
  new Webhook(secret).verify(body, headers);
  let forged = false;
  try { new Webhook(secret).verify(body + " ", headers); forged = true } catch {}
  if (forged) throw new Error("a forged body verifies");
  const event = HTTP.toEvent({ headers, body });
  event.validate();
  console.log(event.id);
}`

// TestForeignVerifier has npm standardwebhooks and cloudevents check what a
// receiver got, in both modes and with the old and the new secret of a rotation.
func TestForeignVerifier(t *testing.T) {
	dir := foreign(t)
	b := wefttest.Node(t)
	g := start(t, b, config())
	var input bytes.Buffer
	var want []string
	for _, mode := range []string{"structured", "binary"} {
		rc := receive(t, nil)
		h := g.create(map[string]any{"url": rc.URL, "subjects": []string{mode}, "mode": mode})
		var rotated hook
		g.call("POST", "/v1/webhooks/"+h.ID+"/rotate", nil, &rotated)
		publish(t, b, mode, 2)
		wefttest.Eventually(t, 5*time.Second, "delivered", func() bool { return len(rc.all()) == 2 })
		for _, re := range rc.all() {
			headers := map[string]string{}
			for k := range re.header {
				headers[k] = re.header.Get(k)
			}
			for _, secret := range []string{h.Secret, rotated.Secret} {
				line, err := json.Marshal(map[string]any{"secret": secret, "headers": lower(headers), "body": string(re.body)})
				if err != nil {
					t.Fatal(err)
				}
				input.Write(append(line, '\n'))
				want = append(want, re.id)
			}
		}
	}
	cmd := exec.CommandContext(t.Context(), "node", "--input-type=module", "-e", verifier)
	cmd.Dir, cmd.Stdin = dir, &input
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("foreign verifier: %v\n%s", err, stderr.String())
	}
	got := bytes.Fields(out)
	if len(got) != len(want) {
		t.Fatalf("%d verified, want %d", len(got), len(want))
	}
	for i := range got {
		if string(got[i]) != want[i] {
			t.Errorf("event %d is %s, want %s", i, got[i], want[i])
		}
	}
}

func lower(h map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range h {
		out[string(bytes.ToLower([]byte(k)))] = v
	}
	return out
}

// foreign is the folder with the installed foreign clients. Without Node the
// test is skipped, except in CI.
func foreign(t *testing.T) string {
	t.Helper()
	skip := func(why string) {
		if os.Getenv("CI") != "" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	if _, err := exec.LookPath("node"); err != nil {
		skip("node is not installed")
	}
	dir, err := filepath.Abs("../../test/foreign")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "node_modules", "standardwebhooks")); err != nil {
		cmd := exec.CommandContext(t.Context(), "npm", "ci", "--no-audit", "--no-fund")
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			skip("npm ci: " + err.Error() + "\n" + string(out))
		}
	}
	return dir
}
