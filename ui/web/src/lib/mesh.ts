/** What the overview draws. The node's answers are read with care: a part that is missing or unknown is left out. */
export interface Site {
  name: string;
  own: boolean;
  up: boolean | undefined;
}

export interface Line {
  from: string;
  to: string;
  up: boolean | undefined;
  state: string;
  rttMs: number | undefined;
  lag: number | undefined; // events not yet here
  note: string;
}

export interface Stream {
  name: string;
  origin: string;
  messages: number | undefined;
  bytes: number | undefined;
  last: number | undefined; // sequence
}

export interface Node {
  name: string;
  site: string;
  up: boolean | undefined;
  version: string;
}

export interface Mesh {
  site: string;
  node: string;
  sites: Site[];
  nodes: Node[];
  links: Line[];
  streams: Stream[];
}

type Obj = Record<string, unknown>;

export function isObject(v: unknown): v is Obj {
  return typeof v === 'object' && v !== null && !Array.isArray(v);
}

/** The objects of a list, or of an object's values with their keys as `name`; whatever else it is, none. */
export function objects(v: unknown): Obj[] {
  if (Array.isArray(v)) return v.filter(isObject);
  if (isObject(v)) return Object.entries(v).flatMap(([name, o]) => (isObject(o) ? [{ name, ...o }] : []));
  return [];
}

export function str(o: Obj, ...keys: string[]): string {
  for (const k of keys) if (typeof o[k] === 'string' && o[k]) return o[k] as string;
  return '';
}

export function num(o: Obj, ...keys: string[]): number | undefined {
  for (const k of keys) if (typeof o[k] === 'number') return o[k] as number;
  return undefined;
}

const good = /^(up|ok|connected|running|live|ready|healthy|active|closed|enabled|alive|current)$/i;
const bad = /^(down|cut|failed|failing|error|refused|disconnected|unreachable|disabled|paused|stopped|dead|open|out|lost)$/i;

/** Whether a word tells that something works; undefined for what is neither good nor bad. */
export function verdict(word: string): boolean | undefined {
  return good.test(word) ? true : bad.test(word) ? false : undefined;
}

/** Whether something works: from a flag, else from a word; undefined if the node does not say. */
export function upOf(o: Obj): boolean | undefined {
  for (const k of ['up', 'connected', 'ready', 'healthy', 'online']) if (typeof o[k] === 'boolean') return o[k] as boolean;
  return verdict(str(o, 'state', 'status'));
}

function strings(v: unknown): string[] {
  return Array.isArray(v) ? v.filter((s): s is string => typeof s === 'string') : [];
}

export function readMesh(raw: unknown): Mesh {
  const m = isObject(raw) ? raw : {};
  const site = str(m, 'site', 'name');
  const node = str(m, 'node');
  const links = objects(m.links).map((l): Line => {
    const up = upOf(l);
    return {
      from: str(l, 'from') || str(l, 'site', 'peer', 'remote', 'name') || '?',
      to: str(l, 'to') || site,
      up,
      state: str(l, 'state', 'status') || (up === undefined ? 'unknown' : up ? 'up' : 'down'),
      rttMs: num(l, 'rttMs', 'rtt_ms', 'rtt'),
      lag: num(l, 'lag', 'lagMessages', 'pending', 'behind'),
      note: str(l, 'error', 'lastError', 'reason', 'note'),
    };
  });
  const sites = new Map<string, Site>();
  const add = (name: string, up?: boolean) => {
    if (!name || name === '?') return;
    const known = sites.get(name);
    sites.set(name, { name, own: name === site, up: name === site ? true : (up ?? known?.up) });
  };
  add(site, true);
  for (const s of objects(m.sites)) add(str(s, 'site', 'name'), upOf(s));
  for (const s of strings(m.sites)) add(s);
  for (const l of links) {
    add(l.from, l.from === site ? undefined : l.up);
    add(l.to, l.to === site ? undefined : l.up);
  }
  const nodes = objects(m.nodes).map((n): Node => ({
    name: str(n, 'node', 'name', 'id'),
    site: str(n, 'site') || site,
    up: upOf(n),
    version: str(n, 'version'),
  }));
  if (nodes.length === 0 && node) nodes.push({ name: node, site, up: true, version: str(m, 'version') });
  const one = isObject(m.stream) ? [m.stream] : [];
  const streams = [...objects(m.streams), ...one].map((s): Stream => ({
    name: str(s, 'name', 'stream') || 'EVENTS',
    origin: str(s, 'origin', 'site'),
    messages: num(s, 'messages', 'msgs', 'events'),
    bytes: num(s, 'bytes'),
    last: num(s, 'last', 'lastSeq', 'last_seq', 'seq'),
  }));
  return { site, node, sites: [...sites.values()].sort((a, b) => Number(b.own) - Number(a.own) || (a.name < b.name ? -1 : 1)), nodes, links, streams };
}

/** The list in an answer, whether it is bare or below a key. */
export function listOf(raw: unknown, key: string): Obj[] {
  return isObject(raw) && key in raw ? objects(raw[key]) : objects(raw);
}

/** Where the sites stand in a drawing of w by h: the own one first, on a flat circle. */
export function places(sites: Site[], w: number, h: number): Map<string, { x: number; y: number }> {
  const out = new Map<string, { x: number; y: number }>();
  const n = sites.length;
  sites.forEach((s, i) => {
    if (n === 1) out.set(s.name, { x: w / 2, y: h / 2 });
    else {
      const a = Math.PI + (2 * Math.PI * i) / n;
      out.set(s.name, { x: w / 2 + Math.cos(a) * w * 0.34, y: h / 2 + (n === 2 ? 0 : Math.sin(a) * h * 0.3) });
    }
  });
  return out;
}

/** Turns growing counters into rates over the last samples. */
export class Rates {
  private samples = new Map<string, { at: number; value: number }[]>();

  add(name: string, value: number | undefined, at: number) {
    if (value === undefined) return;
    const list = this.samples.get(name) ?? [];
    const last = list.at(-1);
    if (last && (value < last.value || at <= last.at)) list.length = 0; // restarted
    list.push({ at, value });
    if (list.length > 61) list.shift();
    this.samples.set(name, list);
  }

  /** Per second between the last two samples. */
  now(name: string): number | undefined {
    return this.series(name).at(-1);
  }

  series(name: string): number[] {
    const list = this.samples.get(name) ?? [];
    return list.slice(1).map((s, i) => ((s.value - list[i]!.value) * 1e6) / (s.at - list[i]!.at));
  }
}
