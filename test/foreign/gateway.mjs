// Speaks to a gateway with clients that Weft has not written: npm `ws` for
// weft.json.v1, npm `cloudevents` for what is published and what comes back.
// Usage: node gateway.mjs HOST:PORT; exits 0 when everything holds.
import assert from "node:assert/strict";
import { CloudEvent, HTTP, emitterFor, httpTransport, Mode } from "cloudevents";
import WebSocket from "ws";

const addr = process.argv[2];
const base = `http://${addr}/v1/events`;

function socket() {
  const ws = new WebSocket(`ws://${addr}/v1/ws`, "weft.json.v1");
  const queue = [];
  let wake = () => {};
  ws.on("message", (data) => {
    const frame = JSON.parse(data.toString());
    if (frame.t !== "hb") queue.push(frame);
    wake();
  });
  const opened = new Promise((resolve, reject) => {
    ws.on("open", resolve);
    ws.on("error", reject);
  });
  const closed = new Promise((resolve) => ws.on("close", (code, reason) => resolve([code, reason.toString()])));
  const next = async () => {
    while (queue.length === 0) await new Promise((resolve) => (wake = resolve));
    return queue.shift();
  };
  return { ws, opened, closed, next, send: (frame) => ws.send(JSON.stringify(frame)) };
}

async function hello(caps) {
  const s = socket();
  await s.opened;
  assert.equal(s.ws.protocol, "weft.json.v1");
  s.send({ t: "hello", v: 1, name: "foreign/1", caps, unknown: true });
  const welcome = await s.next();
  assert.equal(welcome.t, "welcome");
  assert.ok(welcome.sid && welcome.hb > 0 && welcome.max.subs > 0);
  return s;
}

// What npm cloudevents emits is accepted, and the same events come back.
async function publishes() {
  const s = await hello([]);
  s.send({ t: "sub", id: "a", subject: "foreign.>", start: { live: true } });
  const subbed = await s.next();
  assert.equal(subbed.t, "subbed");
  assert.equal((await s.next()).t, "live");
  const give = {
    type: "com.example.made", source: "/foreign/client", subject: "thing 1", id: "f-1",
    datacontenttype: "application/json", data: { text: "grüße", n: 1.5 }, tenant: "a", flag: true, count: 7,
  };
  for (const mode of [Mode.BINARY, Mode.STRUCTURED]) {
    const sent = new CloudEvent({ ...give, id: `f-${mode}` });
    const emit = emitterFor(httpTransport(`${base}/foreign.made`), { mode });
    const answer = await emit(sent);
    const ack = JSON.parse(answer.body);
    assert.equal(ack.id, sent.id);
    assert.equal(ack.duplicate, false);
    const ev = await s.next();
    assert.equal(ev.t, "ev");
    assert.equal(ev.s, subbed.s);
    assert.equal(ev.p, `1:${ack.seq}`);
    const got = HTTP.toEvent({ headers: { "content-type": "application/cloudevents+json" }, body: JSON.stringify(ev.e) });
    got.validate();
    for (const name of ["id", "type", "source", "subject", "datacontenttype", "time", "tenant"]) {
      assert.equal(got[name], sent[name], `${mode} ${name}`);
    }
    assert.equal(String(got.flag), "true");
    assert.equal(String(got.count), "7");
    assert.deepEqual(got.data, sent.data);
  }
  const binary = new CloudEvent({ ...give, id: "f-bytes", datacontenttype: "application/octet-stream", data: Uint8Array.from([0, 255, 128]) });
  await emitterFor(httpTransport(`${base}/foreign.made`), { mode: Mode.STRUCTURED })(binary);
  const ev = await s.next();
  assert.equal(ev.e.data_base64, "AP+A");
  s.ws.close(1000);
  await s.closed;
}

// Starts, batches, resume and publishing over the socket.
async function resumes() {
  const s = await hello(["evs"]);
  s.send({ t: "pub", id: "p", subject: "resume.a", e: { specversion: "1.0", id: "r-1", source: "/foreign", type: "t", data: { n: 1 } } });
  const ok = await s.next();
  assert.deepEqual([ok.t, ok.id, ok.event], ["ok", "p", "r-1"]);
  for (let i = 2; i <= 20; i++) await fetch(`${base}/resume.a`, { method: "POST", body: String(i), headers: { "content-type": "text/plain" } });
  s.send({ t: "sub", id: "a", subject: "resume.*", start: { all: true } });
  const { streams } = await s.next();
  const positions = [];
  for (let f = await s.next(); f.t !== "live"; f = await s.next()) {
    positions.push(...(f.t === "evs" ? f.b.map(([p]) => p) : [f.p]));
  }
  assert.equal(positions.length, 20);
  s.ws.close(1000);
  const again = await hello([]);
  const [index, seq] = positions[14].split(":");
  again.send({ t: "sub", id: "b", subject: "resume.*", start: { after: `${streams[index]}:${seq}` } });
  await again.next();
  for (let i = 15; i < 20; i++) assert.equal((await again.next()).p, positions[i]);
  assert.equal((await again.next()).t, "live");
  again.send({ t: "nonsense" });
  assert.equal((await again.next()).code, "bad_request");
  again.ws.send("no json");
  assert.equal((await again.closed)[0], 4500);
}

// An event stream read with fetch: ids resume it.
async function streams() {
  const read = async (count, headers) => {
    const abort = new AbortController();
    const resp = await fetch(`${base}?subject=resume.*&start=all`, { headers, signal: abort.signal });
    assert.equal(resp.headers.get("content-type"), "text/event-stream");
    const messages = [];
    let text = "";
    for await (const chunk of resp.body.pipeThrough(new TextDecoderStream())) {
      text += chunk;
      const parts = text.split("\n\n");
      text = parts.pop();
      for (const part of parts) {
        const fields = Object.fromEntries(part.split("\n").map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 2)]));
        if (fields.data) messages.push(fields);
      }
      if (messages.length >= count) break;
    }
    abort.abort();
    return messages;
  };
  const all = await read(21);
  const events = all.filter((m) => !m.event);
  assert.equal(events.length, 20);
  assert.equal(JSON.parse(all[20].data).t, "live");
  const first = HTTP.toEvent({ headers: { "content-type": "application/cloudevents+json" }, body: events[0].data });
  assert.equal(first.id, "r-1");
  const rest = await read(6, { "Last-Event-ID": events[14].id });
  assert.equal(rest[0].id, events[15].id);
}

await publishes();
await resumes();
await streams();
process.exit(0);
