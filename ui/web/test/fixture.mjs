// Serves the built console with made-up data, to look at it and to test it without a node.
// Usage: node test/fixture.mjs [port]
import { createHash } from 'node:crypto';
import { readFileSync, existsSync } from 'node:fs';
import { createServer } from 'node:http';
import { fileURLToPath } from 'node:url';

const dist = fileURLToPath(new URL('../../dist', import.meta.url));
const policy = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'";
const types = { '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml', '.html': 'text/html' };
const began = Date.now();

const traceA = '0af7651916cd43dd8448eb211c80319c';
const iso = (ms, us = 0) => new Date(ms).toISOString().replace('Z', `${String(us).padStart(3, '0')}Z`);

let spanIds = 0;
function span(rows, under, name, where, at, took, more = {}) {
  const [service, site] = where.split('@');
  const t0 = began - 42_000;
  const id = (0x1000 + spanIds++).toString(16).padStart(16, '0');
  const parent = under && rows.find((r) => r.spanId === under);
  const us = (n) => iso(t0 + Math.floor(n / 1000), Math.floor(n % 1000));
  const subject = /orders|payments|inventory|shipping/.test(name) ? name.split(' ').at(-1) : undefined;
  rows.push({
    traceId: traceA, spanId: id, parentId: under || undefined, name, kind: 'internal', status: 'unset', service, site, node: `${site}-1`,
    start: us(at), end: us(at + took), depth: parent ? parent.depth + 1 : 0, relation: parent ? 'child' : 'root', under: under || undefined, ...more,
    attrs: {
      'messaging.system': 'nats', ...(subject ? { 'weft.subject': subject } : {}), 'weft.site': site, 'messaging.message.conversation_id': 'order-7f3a-20931',
      'messaging.operation.type': 'process', 'weft.stream_seq': 10234, ...more.attrs,
    },
  });
  return id;
}

function saga() {
  spanIds = 0;
  const rows = [];
  const ev = (id, by) => ({ 'cloudevents.event_id': id, ...(by ? { 'weft.causation_id': by } : {}) });
  const [e1, e2, e3, e4] = ['0198f0c2-1c7e-7c3a-9d5e-3b1f0a6c2d41', '0198f0c2-1ca9-7f11-8a02-55d0e0b7a913', '0198f0c2-1cdd-7b52-b6f0-0c44ad1e7720', '0198f0c2-1d40-7a7a-9e51-71f4b2c9d003'];
  const p = span(rows, '', 'publish orders.created', 'weft@fra', 0, 9400, { kind: 'producer', attrs: ev(e1) });
  span(rows, p, 'store EVENTS', 'weft@fra', 300, 8900);
  const pay = span(rows, p, 'process orders.created', 'payment@fra', 10100, 21000, { kind: 'consumer', attrs: ev(e1) });
  span(rows, pay, 'POST', 'payment@fra', 10400, 18500, { kind: 'client', attrs: { 'http.response.status_code': 200 } });
  const p2 = span(rows, pay, 'publish payments.authorized', 'payment@fra', 29500, 7400, { kind: 'producer', attrs: ev(e2, e1) });
  span(rows, p2, 'store EVENTS', 'weft@fra', 29800, 6800);
  const inv = span(rows, p2, 'process payments.authorized', 'inventory@iad', 71000, 16000, { kind: 'consumer', attrs: ev(e2, e1), status: 'error', statusMessage: 'app answered 503 Service Unavailable, attempt 1 of 5; trying again in 100 ms', events: [{ time: iso(began - 41915), name: 'exception', attrs: { 'exception.message': 'no stock database' } }] });
  span(rows, inv, 'POST', 'inventory@iad', 71400, 15000, { kind: 'client', status: 'error', attrs: { 'http.response.status_code': 503 } });
  span(rows, p2, 'link fra->iad', 'weft@iad', 37200, 33000);
  const inv2 = span(rows, p2, 'process payments.authorized', 'inventory@iad', 187000, 14000, { kind: 'consumer', attrs: { ...ev(e2, e1), 'weft.attempt': 2 } });
  span(rows, inv2, 'POST', 'inventory@iad', 187300, 12000, { kind: 'client', attrs: { 'http.response.status_code': 200 } });
  const p3 = span(rows, inv2, 'publish inventory.reserved', 'inventory@iad', 199500, 6100, { kind: 'producer', attrs: ev(e3, e2) });
  const ship = span(rows, p3, 'process inventory.reserved', 'shipping@fra', 238000, 12800, { kind: 'consumer', attrs: ev(e3, e2) });
  span(rows, ship, 'publish shipping.dispatched', 'shipping@fra', 247000, 5300, { kind: 'producer', attrs: ev(e4, e3) });
  span(rows, p, 'link fra->iad', 'weft@iad', 9600, 32000);
  const k = span(rows, p, 'publish shop-orders', 'weft@fra', 9900, 8200, { kind: 'client', attrs: { 'messaging.system': 'kafka', ...ev(e1) } });
  span(rows, k, 'receive shop-orders', 'weft@iad', 24000, 3100, { kind: 'client', attrs: { 'messaging.system': 'kafka' } });
  span(rows, p, 'deliver orders.created', 'weft@fra', 9800, 420, { kind: 'consumer', attrs: { ...ev(e1), 'weft.recipients': 3 } });
  const hook = span(rows, p, 'process orders.created', 'weft@fra', 9900, 46000, { kind: 'consumer', attrs: ev(e1) });
  span(rows, hook, 'POST', 'weft@fra', 10300, 44800, { kind: 'client', attrs: { 'url.full': 'https://partner.example/hooks', 'http.response.status_code': 204 }, links: [{ traceId: '4bf92f3577b34da6a3ce929d0e0e4736', spanId: '00f067aa0ba902b7' }] });
  span(rows, '', 'publish audit.noted', 'legacy@fra', 255000, 2100, { kind: 'producer', relation: 'orphan', parentId: 'feedfeedfeedfeed' });
  return rows;
}

function wide(n) {
  spanIds = 0;
  const rows = [];
  const p = span(rows, '', 'publish orders.created', 'weft@fra', 0, n * 900, { kind: 'producer' });
  for (let i = 0; i < n; i++) span(rows, p, 'deliver orders.created', i % 3 ? 'weft@fra' : 'weft@iad', i * 850, 1400, { kind: 'consumer' });
  return rows;
}

const endOf = (rows) => rows.reduce((m, r) => (r.end > m ? r.end : m), '');
const uniq = (list) => [...new Set(list)];
function journey(id, rows) {
  return {
    id, name: rows[0].name, traceIds: [traceA], correlationIds: ['order-7f3a-20931'], start: rows[0].start, end: endOf(rows), durationMs: 257.1,
    sites: uniq(rows.map((r) => r.site)), services: uniq(rows.map((r) => r.service)), errors: rows.filter((r) => r.status === 'error').length,
    partial: id.includes('partial'), silent: id.includes('partial') ? ['sin'] : undefined, rows,
  };
}

function summaries() {
  const names = ['publish orders.created', 'publish orders.created', 'publish stock.counted', 'publish orders.cancelled', 'receive shop-orders'];
  return Array.from({ length: 40 }, (_, i) => {
    const start = Date.now() - i * 1730 - 300;
    const services = i % 5 === 4 ? ['weft'] : ['weft', 'payment', 'inventory', 'shipping'].slice(0, 2 + (i % 3));
    const total = 40_000 + ((i * 7919) % 260) * 1000;
    const n = 5 + ((i * 31) % 14);
    const shape = Array.from({ length: n }, (_, k) => ({ at: Math.floor((k / n) * total * 0.9), for: Math.max(300, Math.floor((total / n) * (0.3 + ((i + k * 3) % 5) / 3))), service: services[k % services.length], error: i % 9 === 3 && k === n - 3 }));
    shape[0].for = Math.floor(total * 0.2);
    return {
      id: `order-7f3a-${20931 - i}`, traceId: createHash('md5').update(String(i)).digest('hex'), correlationId: `order-7f3a-${20931 - i}`, name: names[i % 5], start: iso(start, 120), end: iso(start + total / 1000),
      durationMs: total / 1000, spans: n + 3, traces: 1, sites: i % 4 === 1 ? ['fra'] : ['fra', 'iad'], services, error: i % 9 === 3, shape,
    };
  });
}

const mode = { down: false };
function api(url) {
  const s = (Date.now() - began) / 1000;
  const grown = Math.floor(184_220 + s * 311 + 90 * Math.sin(s));
  switch (url.pathname) {
    case '/api/info': return { site: 'fra', node: 'fra-1', version: '0.1.0' };
    case '/api/mesh': return {
      site: 'fra', node: 'fra-1', version: '0.1.0', at: iso(Date.now()),
      nodes: [
        { node: 'fra-1', version: '0.1.0', up: true, self: true, leader: false, clusterSize: 3, listen: { client: '10.0.0.1:4222', links: '10.0.0.1:7422' }, disk: { free: 71e9, total: 200e9 } },
        { node: 'fra-2', version: '0.1.0', up: true, self: false, leader: true, clusterSize: 3, listen: { client: '10.0.0.2:4222', links: '10.0.0.2:7422' }, disk: { free: 70e9, total: 200e9 } },
        { node: 'fra-3', up: false, self: false, leader: false, clusterSize: 3, listen: {}, problem: 'it is not connected' },
      ],
      streams: ['EVENTS', 'WEFT_DLQ'].map((name) => ({ name, messages: name === 'EVENTS' ? grown : 1, bytes: name === 'EVENTS' ? grown * 611 : 2011, last: grown, leader: 'fra-2', replicas: [{ node: 'fra-1', up: true, current: name !== 'EVENTS', lag: 12 }, { node: 'fra-2', leader: true, up: true, current: true, lag: 0 }, { node: 'fra-3', up: false, current: false, lag: 4031 }] })),
      stream: { name: 'EVENTS', messages: grown, bytes: grown * 611, first: 1, last: grown, lastAt: iso(Date.now() - 80), consumers: 9 },
      links: [
        { site: 'iad', node: 'iad-2', version: '0.1.0', up: true, dials: true, connections: 1, importing: true, exporting: true, sent: Math.floor(90_000 + s * 311), taken: Math.floor(41_000 + s * 84), lagInSeconds: 0.02, clockOffsetSeconds: 0.0014, incidents: [{ kind: 'restarted', count: 2, last: iso(began - 90_000) }], since: iso(began - 7_400_000), rttMs: 31.4, lagIn: 2, lagOut: 3, exports: ['orders.>', 'payments.>'], imports: ['>'] },
        { site: 'muc-edge-west', node: 'muc-edge-west-1', version: '0.1.0', up: true, connections: 1, importing: true, exporting: true, sent: 1200, taken: Math.floor(300 + s * 2), lagInSeconds: 0, clockOffsetSeconds: -8.31, incidents: [], since: iso(began - 600_000), rttMs: 4.2, lagIn: 0, lagOut: 0, exports: ['orders.>'], imports: ['stock.>'], problem: 'no frame from site muc-edge-west within 3s: it is cut off, or its link user may not send wl.fra.muc-edge-west.>' },
        { site: 'sin', up: false, connections: 0, importing: false, exporting: false, sent: 880, taken: 0, headroom: 0.21, lost: 17, lagInSeconds: 0, clockOffsetSeconds: 0, incidents: [], since: iso(began - 190_000), rttMs: 0, lagIn: 0, lagOut: 1204, exports: ['orders.>'], imports: ['>'], problem: 'connection refused, next try in 4 s' },
      ],
    };
    case '/api/mesh/doctor': return { site: 'fra', node: 'fra-1', at: iso(Date.now()), findings: [
      { severity: 'error', code: 'node_down', subject: 'fra-3', what: 'Node fra-3 is down: it is not connected.', why: 'The process or the machine is gone, or the network between the nodes is cut.', do: 'Start it, or look at its log. If it is gone for good: weft mesh remove fra-3.' },
      { severity: 'error', code: 'link_down', subject: 'sin', what: 'The link to site sin has been down for 3m10s: connection refused.', why: 'The other site is down or cannot be reached, or only one of the two has a link to the other configured.', do: 'Check that site sin runs, that it has this site under mesh.links.sites, and that mesh.links.sites[].urls here is an address of its mesh.links.listen.' },
      { severity: 'warning', code: 'clock_skew', subject: 'muc-edge-west', what: "The clock of site muc-edge-west is 8.3s behind this node's.", why: 'One of the two machines has no working time service.', do: 'Compare both machines with a third and set up NTP or chrony on the one that is wrong.' },
    ] };
    case '/api/streams': return [{ name: 'EVENTS', messages: grown, bytes: grown * 611, first: 1, last: grown, lastAt: iso(Date.now() - 80), consumers: 9 }, { name: 'WEFT_DLQ', messages: 1, bytes: 2011, first: 4, last: 4, lastAt: iso(began - 90_000), consumers: 0 }];
    case '/api/bridges': return [
      { name: 'orders-kafka', from: 'mesh orders.>', to: 'kafka shop-orders', guarantee: 'at-least-once', state: 'running', since: iso(began), read: Math.floor(8000 + s * 12), stored: Math.floor(8000 + s * 12), dead: 0, dropped: 0, retries: 2, inFlight: 1, lagMessages: 0, lagSeconds: 0 },
      { name: 'orders-sns', from: 'mesh orders.>', to: 'sns orders', guarantee: 'at-least-once', state: 'retrying', since: iso(began), read: 8203, stored: 7991, dead: 1, dropped: 0, retries: 44, inFlight: 12, lagMessages: 212, lagSeconds: 19, lastError: 'AuthorizationError: not allowed to publish' },
    ];
    case '/api/sidecars': return { sidecars: [
      { app: 'payment', instance: 'payment-1', site: 'fra', draining: false, subscriptions: [{ name: 'orders', consumer: 'payment-orders', subjects: ['orders.created'], breaker: 'CLOSED', held: 0, inflight: 1, delivered: 3012, failed: 4, deadLetters: 0 }] },
      { app: 'inventory', instance: 'inventory-1', site: 'fra', draining: true, subscriptions: [{ name: 'payments', consumer: 'inventory-payments', subjects: ['payments.>'], breaker: 'OPEN', held: 12, inflight: 0, delivered: 2998, failed: 31, deadLetters: 1 }] },
    ] };
    case '/api/webhooks': return { webhooks: [
      { id: 'wh_1', url: 'https://partner.example/hooks/orders', subjects: ['orders.>'], status: { state: 'live', delivered: 2944, failed: 2, dead: 0 } },
      { id: 'wh_2', url: 'https://slow.example/in', subjects: ['>'], status: { state: 'paused', reason: '20 attempts failed in a row', behind: 1877, delivered: 12, failed: 41, dead: 0 } },
    ], total: 2 };
    case '/api/dlq': return { entries: [{ seq: 4, at: iso(began - 90_000), owner: 'sidecar/inventory/payments', reason: 'rejected', error: 'app answered 422', attempts: 1, subject: 'payments.authorized', id: '0198f0c2-1ca9', correlationId: 'order-7f3a-20910' }] };
    case '/api/journeys': {
      const q = url.searchParams.get('q') ?? '';
      return { journeys: summaries().filter((j) => (!q || j.id.includes(q) || j.name.includes(q)) && (url.searchParams.get('errors') !== 'true' || j.error)), partial: false };
    }
  }
  const one = /^\/api\/journeys\/(.+)$/.exec(url.pathname);
  if (one && !one[1].includes('missing')) return journey(decodeURIComponent(one[1]), one[1].includes('wide') ? wide(10_000) : saga());
  return null;
}

const server = createServer((req, res) => {
  const url = new URL(req.url, 'http://x');
  res.setHeader('Content-Security-Policy', policy);
  if (url.pathname === '/fixture/down') return void (mode.down = true, res.end());
  if (url.pathname === '/fixture/up') return void (mode.down = false, res.end());
  if (url.pathname.startsWith('/api/')) {
    if (mode.down) return void res.destroy();
    const body = api(url);
    res.writeHead(body ? 200 : 404, { 'Content-Type': body ? 'application/json' : 'application/problem+json' });
    return void res.end(JSON.stringify(body ?? { title: 'Not Found', status: 404, detail: 'no journey "missing": not sampled, dropped from the store by age or size, or never seen' }));
  }
  let file = dist + url.pathname;
  if (url.pathname === '/' || !existsSync(file)) file = `${dist}/index.html`;
  res.setHeader('Content-Type', types[file.slice(file.lastIndexOf('.'))] ?? 'application/octet-stream');
  res.end(readFileSync(file));
});

// Just enough of RFC 6455 for text frames from a browser.
server.on('upgrade', (req, socket) => {
  const accept = createHash('sha1').update(`${req.headers['sec-websocket-key']}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64');
  socket.write(`HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\nSec-WebSocket-Protocol: weft.json.v1\r\n\r\n`);
  const send = (o) => {
    const data = Buffer.from(JSON.stringify(o));
    const head = data.length < 126 ? Buffer.from([0x81, data.length]) : Buffer.from([0x81, 126, data.length >> 8, data.length & 255]);
    socket.write(Buffer.concat([head, data]));
  };
  let timer;
  let n = 0;
  const perTick = Number(process.env.RATE ?? 20) / 20;
  socket.on('data', (chunk) => {
    const len = chunk[1] & 127;
    if ((chunk[0] & 15) !== 1 || len > 126) return;
    const off = len === 126 ? 4 : 2;
    const size = len === 126 ? chunk.readUInt16BE(2) : len;
    const mask = chunk.subarray(off, off + 4);
    const m = JSON.parse(Buffer.from(chunk.subarray(off + 4, off + 4 + size).map((b, i) => b ^ mask[i % 4])).toString());
    if (m.t === 'hello') send({ t: 'welcome', sid: 'x', hb: 25 });
    if (m.t === 'sub' && /\.\./.test(m.subject)) return send({ t: 'err', id: m.id, code: 'bad_request', msg: `subject ${m.subject}: empty word` });
    if (m.t !== 'sub') return;
    send({ t: 'subbed', id: m.id, s: 1 });
    timer = setInterval(() => {
      for (let i = 0; i < perTick; i++) {
        n++;
        const subject = ['orders.created', 'payments.authorized', 'inventory.reserved', 'shipping.dispatched'][n % 4];
        send({ t: 'ev', s: 1, p: `1:${n}`, e: { specversion: '1.0', id: `0198f0c2-${n}`, source: '/shop/' + subject.split('.')[0], type: subject, time: new Date().toISOString(), datacontenttype: 'application/json', correlationid: `order-7f3a-${20931 + (n >> 2)}`, data: { order: 20931 + (n >> 2), total: 42.5, items: [{ sku: 'A-1', n: 2 }] } } });
      }
    }, 50);
  });
  socket.on('close', () => clearInterval(timer));
  socket.on('error', () => clearInterval(timer));
});

server.listen(Number(process.argv[2] ?? 5199), '127.0.0.1', () => console.log(`http://127.0.0.1:${server.address().port}/`));
