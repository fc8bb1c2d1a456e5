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
}

export interface Stream {
  name: string;
  messages: number | undefined;
  bytes: number | undefined;
  last: number | undefined; // sequence
  lastAt: string;
  consumers: number | undefined;
}

export interface Mesh {
  site: string;
  node: string;
  version: string;
  sites: Site[];
  links: Line[];
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
  }));
  const sites: Site[] = site ? [{ name: site, own: true, up: true }] : [];
  for (const l of links) if (!sites.some((s) => s.name === l.peer)) sites.push({ name: l.peer, own: false, up: l.up });
  return { site, node: str(m, 'node'), version: str(m, 'version'), sites, links, stream: isObject(m.stream) ? readStream(m.stream) : undefined };
}

export function readStream(s: Obj): Stream {
  return { name: str(s, 'name'), messages: num(s, 'messages'), bytes: num(s, 'bytes'), last: num(s, 'last'), lastAt: str(s, 'lastAt'), consumers: num(s, 'consumers') };
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
