import { micros } from './time';
import type { Row } from './types';

export const eventIdKey = 'cloudevents.event_id';
export const causeKey = 'weft.causation_id';
export const correlationKey = 'messaging.message.conversation_id';

/** A row with what drawing needs, worked out once. */
export interface Drawn {
  row: Row;
  at: number; // microseconds after the journey's start
  took: number;
  children: number; // rows directly below
  hidden: number; // all rows below
}

export function draw(rows: Row[], start: string): Drawn[] {
  const zero = micros(start);
  return rows.map((row, i) => {
    let end = i + 1;
    let children = 0;
    while (end < rows.length && rows[end]!.depth > row.depth) {
      if (rows[end]!.depth === row.depth + 1) children++;
      end++;
    }
    const from = micros(row.start);
    return { row, at: from - zero, took: Math.max(0, micros(row.end) - from), children, hidden: end - i - 1 };
  });
}

/** The rows that show when those below `closed` spans do not. */
export function visible(rows: Drawn[], closed: ReadonlySet<string>): Drawn[] {
  const out: Drawn[] = [];
  for (let i = 0; i < rows.length; i++) {
    const d = rows[i]!;
    out.push(d);
    if (closed.has(key(d.row))) i += d.hidden;
  }
  return out;
}

export function key(row: Row): string {
  return `${row.traceId}-${row.spanId}`;
}

export function text(row: Row, attr: string): string {
  const v = row.attrs?.[attr];
  return typeof v === 'string' ? v : '';
}

/** One event of the journey, placed below the event that caused it. */
export interface Cause {
  id: string;
  subject: string;
  depth: number;
  row: Row; // the span that brought it about, or the first that is about it
  failed: boolean;
}

/** The causation tree of a journey: which event brought about which. */
export function causes(rows: Row[]): Cause[] {
  const events = new Map<string, { row: Row; by: string; failed: boolean }>();
  for (const row of rows) {
    const id = text(row, eventIdKey);
    if (!id) continue;
    const known = events.get(id);
    const failed = row.status === 'error' || (known?.failed ?? false);
    const better = !known || (known.row.kind !== 'producer' && row.kind === 'producer');
    events.set(id, { row: better ? row : known.row, by: text(row, causeKey) || known?.by || '', failed });
  }
  const out: Cause[] = [];
  const seen = new Set<string>();
  const put = (id: string, depth: number) => {
    if (seen.has(id)) return;
    seen.add(id);
    const e = events.get(id)!;
    out.push({ id, subject: subjectOf(e.row), depth, row: e.row, failed: e.failed });
    for (const [other, o] of events) if (o.by === id) put(other, depth + 1);
  };
  for (const [id, e] of events) if (!events.has(e.by)) put(id, 0);
  for (const id of events.keys()) put(id, 0); // circles
  return out;
}

export function subjectOf(row: Row): string {
  return text(row, 'weft.subject') || text(row, 'cloudevents.event_type') || row.name.replace(/^\S+ /, '');
}
