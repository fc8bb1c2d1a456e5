// A page that follows the shop by WebSocket (subprotocol weft.json.v1). It keeps
// the cursor of the last event it has shown, so a reconnect resumes without a
// gap or a repeat.
const { gateway, console: consoleURL } = await (await fetch("config.json")).json();
const SHOWN = 40;
const steps = {
  "orders.created": ["created", ""],
  "payments.authorized": ["paid", ""],
  "payments.refused": ["payment refused", "bad"],
  "inventory.reserved": ["reserved", ""],
  "shipping.dispatched": ["dispatched", ""],
  "orders.completed": ["completed", "done"],
  "orders.cancelled": ["cancelled", "bad"],
};
const orders = new Map();
const count = { open: 0, completed: 0, cancelled: 0, events: 0 };
const $ = (id) => document.getElementById(id);
let cursor;
let streams = {};
let wait = 500;

function connect() {
  const ws = new WebSocket(gateway, "weft.json.v1");
  ws.onopen = () => {
    ws.send(JSON.stringify({ t: "hello", v: 1, name: "order-board" }));
  };
  ws.onmessage = ({ data }) => handle(ws, JSON.parse(data));
  ws.onclose = () => {
    status(`disconnected, trying again in ${(wait / 1000).toFixed(1)} s`);
    setTimeout(connect, wait * (0.5 + Math.random() / 2));
    wait = Math.min(wait * 2, 20000);
  };
}

function handle(ws, m) {
  switch (m.t) {
    case "welcome":
      wait = 500;
      ws.send(JSON.stringify({ t: "sub", id: "shop", subject: ">", start: cursor ? { after: cursor } : { last: 200 } }));
      break;
    case "subbed":
      streams = m.streams ?? {};
      status("live");
      break;
    case "ev":
      show(m.e);
      remember(m.p);
      break;
    case "evs":
      for (const [p, e] of m.b) {
        show(e);
        remember(p);
      }
      break;
    case "gap":
      status(`missed events (${m.why}), live again`);
      break;
    case "err":
      status(`${m.code}: ${m.msg}`);
  }
}

// A position is <stream index>:<sequence>; with the stream's name it is a cursor.
function remember(p) {
  if (!p) return;
  const [index, seq] = p.split(":");
  if (streams[index]) cursor = `${streams[index]}:${seq}`;
}

function show(e) {
  const step = steps[e.type];
  const data = e.data;
  if (!step || !data?.orderId) return;
  let o = orders.get(data.orderId);
  if (!o) {
    o = { id: data.orderId, row: row(data, e), seen: new Set() };
    orders.set(o.id, o);
    count.open++;
    $("orders").prepend(o.row);
    $("empty").hidden = true;
    while ($("orders").rows.length > SHOWN) $("orders").lastElementChild.remove();
  }
  if (o.seen.has(e.type)) return; // the bridged copies of an event are the same step
  o.seen.add(e.type);
  count.events++;
  const li = document.createElement("li");
  li.textContent = step[0];
  li.className = step[1];
  o.row.querySelector("ol").append(li);
  if (e.type === "orders.completed" || e.type === "orders.cancelled") {
    count.open--;
    count[e.type.slice("orders.".length)]++;
  }
  if (orders.size > 500) orders.delete(orders.keys().next().value);
  for (const dd of document.querySelectorAll("[data-count]")) dd.textContent = count[dd.dataset.count].toLocaleString();
}

function row(data, e) {
  const tr = document.createElement("tr");
  const cell = (text, cls) => {
    const td = tr.insertCell();
    td.textContent = text;
    if (cls) td.className = cls;
    return td;
  };
  cell(data.orderId, "id");
  cell(data.customer);
  cell(data.item);
  cell((data.cents / 100).toLocaleString(undefined, { style: "currency", currency: "EUR" }), "num");
  cell("", "steps").append(document.createElement("ol"));
  const a = document.createElement("a");
  a.href = `${consoleURL}/journeys/${encodeURIComponent(e.correlationid ?? e.id)}`;
  a.textContent = "journey";
  cell("").append(a);
  return tr;
}

function status(text) {
  $("status").textContent = text;
}

connect();
