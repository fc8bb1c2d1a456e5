import { describe, expect, test } from 'vitest';
import { palette } from './colour';
import { causes, draw, visible } from './journey';
import { lanes } from './lanes';
import { linkState, listOf, places, Rates, readFindings, readMesh, upOf, verdict } from './mesh';
import { bytes, count, rate } from './number';
import { events, latest, tailed } from './tail';
import { ago, duration, micros, ticks } from './time';
import type { Row } from './types';

describe('time', () => {
  test('micros keeps what Date loses', () => {
    expect(micros('2026-09-01T10:00:00.123456789Z')).toBe(Date.UTC(2026, 8, 1, 10, 0, 0) * 1000 + 123456);
    expect(micros('2026-09-01T12:00:00+02:00')).toBe(Date.UTC(2026, 8, 1, 10, 0, 0) * 1000);
    expect(micros('2026-09-01T10:00:00.5Z') % 1e6).toBe(500000);
    expect(micros('yesterday')).toBeNaN();
    expect(micros(undefined)).toBeNaN();
  });

  test.each([
    [0, '0 µs'],
    [999, '999 µs'],
    [1500, '1.50 ms'],
    [42_300, '42.3 ms'],
    [999_400, '999 ms'],
    [2_000_000, '2.00 s'],
    [61_000_000, '1 min 1 s'],
    [7_500_000_000, '2 h 5 min'],
    [-1500, '−1.50 ms'],
    [NaN, '–'],
  ])('duration(%d)', (give, want) => expect(duration(give)).toBe(want));

  test('ago', () => {
    expect(ago(0, 59e6)).toBe('59 s ago');
    expect(ago(0, 3600e6)).toBe('1 h ago');
    expect(ago(10, 0)).toBe('0 s ago');
  });

  test('ticks are round and stay inside', () => {
    expect(ticks(257_100, 6)).toEqual([0, 50_000, 100_000, 150_000, 200_000, 250_000]);
    expect(ticks(0, 6)).toEqual([0]);
    expect(ticks(NaN, 6)).toEqual([0]);
    expect(ticks(3, 6).at(-1)).toBeLessThanOrEqual(3);
  });
});

test('numbers', () => {
  expect(count(1234567)).toBe('1\u202f234\u202f567');
  expect(count(undefined)).toBe('–');
  expect(bytes(611)).toBe('611 B');
  expect(bytes(1536)).toBe('1.5 KiB');
  expect(bytes(5 * 2 ** 40)).toBe('5.0 TiB');
  expect(rate(3.14)).toBe('3.1/s');
  expect(rate(undefined)).toBe('–');
});

function row(spanId: string, depth: number, more: Partial<Row> = {}): Row {
  return {
    traceId: 't', spanId, name: `publish ${spanId}`, kind: 'internal', start: '2026-09-01T10:00:00.000100Z', end: '2026-09-01T10:00:00.000300Z',
    status: 'unset', service: 's', depth, relation: depth === 0 ? 'root' : 'child', ...more,
  };
}

describe('journey', () => {
  const rows = [row('a', 0), row('b', 1), row('c', 2), row('d', 1), row('e', 0)];

  test('draw counts what is below and measures from the start', () => {
    const drawn = draw(rows, '2026-09-01T10:00:00Z');
    expect(drawn.map((d) => [d.children, d.hidden])).toEqual([[2, 3], [1, 1], [0, 0], [0, 0], [0, 0]]);
    expect(drawn[0]).toMatchObject({ at: 100, took: 200 });
  });

  test('visible leaves out what is below a closed span', () => {
    const drawn = draw(rows, '2026-09-01T10:00:00Z');
    const ids = (closed: string[]) => visible(drawn, new Set(closed)).map((d) => d.row.spanId).join('');
    expect(ids([])).toBe('abcde');
    expect(ids(['t-b'])).toBe('abde');
    expect(ids(['t-a', 't-b'])).toBe('ae');
    expect(ids(['t-c'])).toBe('abcde');
  });

  const about = (id: string, by = '', kind = 'producer', status: Row['status'] = 'unset') =>
    row(`${id}-${kind}`, 0, { kind, status, attrs: { 'cloudevents.event_id': id, 'weft.subject': `s.${id}`, ...(by ? { 'weft.causation_id': by } : {}) } });

  test('causes follow causation ids, prefer the publish, survive circles', () => {
    const list = causes([about('1', '', 'consumer'), about('1'), about('2', '1'), about('2', '1', 'consumer', 'error'), about('3', '2'), about('4', 'gone'), about('5', '6'), about('6', '5')]);
    expect(list.map((c) => [c.depth, c.id, c.failed])).toEqual([[0, '1', false], [1, '2', true], [2, '3', false], [0, '4', false], [0, '5', false], [1, '6', false]]);
    expect(list[0]?.row.kind).toBe('producer');
    expect(list[0]?.subject).toBe('s.1');
    expect(causes([row('x', 0)])).toEqual([]);
  });
});

test('services of one journey have different colours, weft is the ground', () => {
  const p = palette(['weft', 'payment', 'inventory', 'shipping', 'orders', 'audit', 'mail']);
  expect(new Set(p.values()).size).toBe(7);
  expect(p.get('weft')).toBe('var(--weft)');
  expect(palette(Array.from({ length: 30 }, (_, i) => `s${i}`)).size).toBe(30);
});

test('lanes keep bars apart as long as there is room', () => {
  const bar = (at: number, f: number) => ({ at, for: f, service: 's' });
  expect(lanes([bar(0, 10), bar(5, 10), bar(10, 5), bar(12, 1)], 5)).toEqual({ lane: [0, 1, 0, 2], count: 3 });
  expect(lanes([bar(0, 9), bar(1, 9), bar(2, 9)], 2).count).toBe(2);
  expect(lanes([], 5)).toEqual({ lane: [], count: 0 });
});

describe('mesh', () => {
  test('reads a node’s answer', () => {
    const m = readMesh({ site: 'fra', node: 'fra-1', stream: { name: 'EVENTS', messages: 3, last: 3 }, links: [{ site: 'iad', up: false, rttMs: 2, lagOut: 7, imports: ['>', 1], problem: 'x' }] });
    expect(m.sites.map((s) => [s.name, s.own, s.up])).toEqual([['fra', true, true], ['iad', false, false]]);
    expect(m.links[0]).toMatchObject({ peer: 'iad', up: false, lagOut: 7, lagIn: undefined, imports: ['>'], exports: [] });
    expect(m.stream?.messages).toBe(3);
  });

  test('reads nodes, replicas and findings', () => {
    const m = readMesh({
      site: 'fra', nodes: [{ node: 'fra-1', up: true, leader: true, disk: { free: 5 } }, { node: 'fra-2', up: false, problem: 'gone' }],
      streams: [{ name: 'EVENTS', leader: 'fra-1', replicas: [{ node: 'fra-2', up: false, current: false, lag: 9 }] }],
      links: [{ site: 'iad', up: true, problem: 'no frame' }, { site: 'sin', up: true }, { site: 'muc', up: false }, { site: 'old' }],
    });
    expect(m.nodes.map((n) => [n.name, n.up, n.leader, n.free])).toEqual([['fra-1', true, true, 5], ['fra-2', false, false, undefined]]);
    expect(m.streams[0]?.replicas).toEqual([{ node: 'fra-2', leader: false, up: false, current: false, lag: 9 }]);
    expect(m.links.map(linkState)).toEqual(['stalled', 'up', 'cut', 'unknown']);
    expect(readFindings({ findings: [{ severity: 'error', code: 'x', do: 'act' }, 3] })).toMatchObject([{ severity: 'error', code: 'x', remedy: 'act', why: '' }]);
    expect(readFindings(null)).toEqual([]);
  });

  test.each([null, 7, 'x', [], {}, { links: 3, stream: [] }])('survives %j', (give) => {
    expect(readMesh(give).links).toEqual([]);
    expect(listOf(give, 'bridges').every((o) => typeof o === 'object')).toBe(true);
  });

  test('up is true, false or not known', () => {
    expect(upOf({ up: false, state: 'up' })).toBe(false);
    expect(upOf({ state: 'running' })).toBe(true);
    expect(upOf({ state: 'lagging' })).toBeUndefined();
    expect(verdict('open')).toBe(false);
  });

  test('sites stay inside the drawing', () => {
    for (let n = 1; n < 9; n++) {
      const sites = Array.from({ length: n }, (_, i) => ({ name: `s${i}`, own: i === 0, up: true }));
      for (const p of places(sites, 300, 280, 104).values()) expect(Math.abs(p.x - 150) + 52).toBeLessThanOrEqual(150);
    }
  });

  test('rates forget a counter that began anew', () => {
    const r = new Rates();
    r.add('x', 10, 1e6);
    r.add('x', 30, 3e6);
    expect(r.now('x')).toBe(10);
    r.add('x', 2, 4e6);
    expect(r.now('x')).toBeUndefined();
    r.add('x', undefined, 5e6);
    expect(r.series('y')).toEqual([]);
  });
});

describe('tail', () => {
  test('events of a frame', () => {
    expect(events({ t: 'ev', e: { id: '1' } })).toEqual([{ id: '1' }]);
    expect(events({ t: 'evs', b: [['1:1', { id: '1' }], ['1:2', { id: '2' }, '00-x'], 'odd'] })).toHaveLength(2);
    expect(events({ t: 'hb' })).toEqual([]);
  });

  test('an event has a journey and a preview', () => {
    const traced = { id: 'e', type: 't', traceparent: '00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01', data: { a: 1 } };
    expect(tailed(0, { ...traced, correlationid: 'c' }, 0).journey).toBe('c');
    expect(tailed(0, traced, 0)).toMatchObject({ journey: '0af7651916cd43dd8448eb211c80319c', preview: '{"a":1}' });
    expect(tailed(0, { id: 'e' }, 0)).toMatchObject({ journey: 'e', preview: 'no data' });
    expect(tailed(0, { data: 'x'.repeat(999) }, 0).preview).toHaveLength(161);
    expect(tailed(0, { data_base64: 'AAAA' }, 0).preview).toBe('binary, 3 bytes');
  });

  test('latest keeps the newest', () => {
    expect(latest([3, 2, 1], [4, 5], 4)).toEqual([5, 4, 3, 2]);
    expect(latest([1], [2, 3, 4], 2)).toEqual([4, 3]);
  });
});
