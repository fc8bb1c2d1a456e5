/** What the overview draws. The node's answers are read with care: a part that is missing or unknown is left out. */
export interface Site {
  name: string;
  own: boolean;
  up: boolean | undefined;
}

/** A link as the own site sees it. */
export interface Line {
  peer: string;
  up: boolean | undefined;
  since: string;
  rttMs: number | undefined;
  lagOut: number | undefined; // events the peer has not taken over yet
  lagIn: number | undefined; // events not taken over from the peer yet
  exports: string[];
  imports: string[];
  problem: string;
  node: string; // the peer's node that answered last
  version: string;
  dials: boolean;
  importing: boolean | undefined;
  sent: number | undefined; // events since the node's start
  taken: number | undefined;
  behind: number | undefined; // seconds
  room: number | undefined; // share of the retention left for what the peer has not taken
  lost: number | undefined; // events dropped before the peer took them
  clock: number | undefined; // seconds that the peer's clock is ahead
  incidents: { kind: string; count: number }[];
}

/** A node of the own site. */
export interface SiteNode {
  name: string;
  up: boolean | undefined;
  self: boolean;
  leader: boolean;
  version: string;
  client: string;
  links: string;
  free: number | undefined;
  total: number | undefined;
  problem: string;
}

/** What the doctor found. */
export interface Finding {
  severity: string;
  code: string;
  subject: string;
  what: string;
  why: string;
  remedy: string;
}

/** A node's copy of a stream. */
export interface Replica {
  node: string;
  leader: boolean;
  up: boolean;
  current: boolean;
  lag: number;
}

export interface Stream {
  name: string;
  messages: number | undefined;
  bytes: number | undefined;
  last: number | undefined; // sequence
  lastAt: string;
  consumers: number | undefined;
  leader: string;
  replicas: Replica[];
}

export interface Mesh {
  site: string;
  node: string;
  version: string;
  sites: Site[];
  links: Line[];
  nodes: SiteNode[];
  streams: Stream[];
  at: string;
  stream: Stream | undefined;
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
  const site = str(m, 'site');
  const links = objects(m.links).map((l): Line => ({
    peer: str(l, 'site') || '?',
    up: upOf(l),
    since: str(l, 'since'),
    rttMs: num(l, 'rttMs'),
    lagOut: num(l, 'lagOut'),
    lagIn: num(l, 'lagIn'),
    exports: strings(l.exports),
    imports: strings(l.imports),
    problem: str(l, 'problem'),
    node: str(l, 'node'),
    version: str(l, 'version'),
    dials: l.dials === true,
    importing: typeof l.importing === 'boolean' ? l.importing : undefined,
    sent: num(l, 'sent'),
    taken: num(l, 'taken'),
    behind: num(l, 'lagInSeconds'),
    room: num(l, 'headroom'),
    lost: num(l, 'lost'),
    clock: num(l, 'clockOffsetSeconds'),
    incidents: objects(l.incidents).map((i) => ({ kind: str(i, 'kind'), count: num(i, 'count') ?? 0 })),
  }));
  const nodes = objects(m.nodes).map(readNode);
  const sites: Site[] = site ? [{ name: site, own: true, up: true }] : [];
  for (const l of links) if (!sites.some((s) => s.name === l.peer)) sites.push({ name: l.peer, own: false, up: l.up });
  return { site, node: str(m, 'node'), version: str(m, 'version'), at: str(m, 'at'), sites, links, nodes, streams: objects(m.streams).map(readStream), stream: isObject(m.stream) ? readStream(m.stream) : undefined };
}

function readNode(n: Obj): SiteNode {
  const listen = isObject(n.listen) ? n.listen : {};
  const disk = isObject(n.disk) ? n.disk : {};
  return {
    name: str(n, 'node'), up: upOf(n), self: n.self === true, leader: n.leader === true, version: str(n, 'version'),
    client: str(listen, 'client'), links: str(listen, 'links'), free: num(disk, 'free'), total: num(disk, 'total'), problem: str(n, 'problem'),
  };
}

export function readFindings(raw: unknown): Finding[] {
  return objects(isObject(raw) ? raw.findings : undefined).map((f) => ({
    severity: str(f, 'severity'), code: str(f, 'code'), subject: str(f, 'subject'), what: str(f, 'what'), why: str(f, 'why'), remedy: str(f, 'do'),
  }));
}

/** How a link is, in a word: stalled means that questions are answered but events are not taken over. */
export function linkState(l: Line): 'up' | 'cut' | 'stalled' | 'unknown' {
  if (l.up === undefined) return 'unknown';
  return l.up ? (l.problem ? 'stalled' : 'up') : 'cut';
}

export function readStream(s: Obj): Stream {
  const replicas = objects(s.replicas).map((r): Replica => ({
    node: str(r, 'node'), leader: r.leader === true, up: r.up !== false, current: r.current !== false, lag: num(r, 'lag') ?? 0,
  }));
  return { leader: str(s, 'leader'), replicas, name: str(s, 'name'), messages: num(s, 'messages'), bytes: num(s, 'bytes'), last: num(s, 'last'), lastAt: str(s, 'lastAt'), consumers: num(s, 'consumers') };
}

/** The list in an answer, whether it is bare or below a key. */
export function listOf(raw: unknown, key: string): Obj[] {
  return isObject(raw) && key in raw ? objects(raw[key]) : objects(raw);
}

/** Where the sites stand in a drawing of w by h: the own one first, on a flat circle; each takes `box` in width. */
export function places(sites: Site[], w: number, h: number, box: number): Map<string, { x: number; y: number }> {
  const out = new Map<string, { x: number; y: number }>();
  const n = sites.length;
  sites.forEach((s, i) => {
    if (n === 1) out.set(s.name, { x: w / 2, y: h / 2 });
    else {
      const a = Math.PI + (2 * Math.PI * i) / n;
      out.set(s.name, { x: w / 2 + Math.cos(a) * Math.min(w * 0.36, (w - box) / 2 - 2), y: h / 2 + (n === 2 ? 0 : Math.sin(a) * h * 0.3) });
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
    if (last && at <= last.at) return; // the same answer again
    if (last && value < last.value) list.length = 0; // the counter began anew
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
