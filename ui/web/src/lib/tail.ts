/** An event as the live tail shows it. */
export interface Tailed {
  n: number; // counts up; the list's key
  at: number; // arrival here, microseconds since 1970
  id: string;
  subject: string;
  type: string;
  source: string;
  time: string;
  journey: string; // correlation id, else trace id
  preview: string;
  event: Record<string, unknown>;
}

export type Frame = { t: string } & Record<string, unknown>;

const previewLength = 160;

/** Reads the events out of an `ev` or `evs` frame. */
export function events(frame: Frame): Record<string, unknown>[] {
  if (frame.t === 'ev' && isObject(frame.e)) return [frame.e];
  if (frame.t === 'evs' && Array.isArray(frame.b)) {
    return frame.b.flatMap((item) => (Array.isArray(item) && isObject(item[1]) ? [item[1]] : []));
  }
  return [];
}

function isObject(v: unknown): v is Record<string, unknown> {
  return typeof v === 'object' && v !== null && !Array.isArray(v);
}

export function tailed(n: number, e: Record<string, unknown>, at: number): Tailed {
  const s = (k: string) => (typeof e[k] === 'string' ? (e[k] as string) : '');
  const traceId = s('traceparent').split('-')[1] ?? '';
  return {
    n,
    at,
    id: s('id'),
    subject: s('weftsubject') || s('type'), // the gateway tells the subject where the type does not
    type: s('type'),
    source: s('source'),
    time: s('time'),
    journey: s('correlationid') || traceId || s('id'),
    preview: preview(e),
    event: e,
  };
}

function preview(e: Record<string, unknown>): string {
  if (typeof e.data_base64 === 'string') return `binary, ${Math.floor((e.data_base64.length * 3) / 4)} bytes`;
  if (e.data === undefined) return 'no data';
  const text = typeof e.data === 'string' ? e.data : JSON.stringify(e.data);
  return text.length > previewLength ? `${text.slice(0, previewLength)}…` : text;
}

/** Puts fresh items (oldest first) before list (newest first) and keeps the newest `limit`. */
export function latest<T>(list: T[], fresh: T[], limit: number): T[] {
  return [...fresh.toReversed(), ...list].slice(0, limit);
}
