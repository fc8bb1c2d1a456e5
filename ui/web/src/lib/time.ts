/** Microseconds since 1970 of an RFC 3339 time with up to nanoseconds; NaN if it is none. */
export function micros(text: string | undefined): number {
  const m = /^(.+T\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)$/.exec(text ?? '');
  if (!m) return NaN;
  const whole = Date.parse(`${m[1]}${m[3]}`);
  const part = Number((m[2] ?? '').padEnd(6, '0').slice(0, 6));
  return whole * 1000 + part;
}

/** A duration in microseconds with about three digits that matter. */
export function duration(us: number): string {
  if (!Number.isFinite(us)) return '–';
  if (us < 0) return `−${duration(-us)}`;
  if (us < 1000) return `${Math.round(us)} µs`;
  const ms = us / 1000;
  if (ms < 1000) return `${ms < 10 ? ms.toFixed(2) : ms < 100 ? ms.toFixed(1) : ms.toFixed(0)} ms`;
  const s = ms / 1000;
  if (s < 60) return `${s < 10 ? s.toFixed(2) : s.toFixed(1)} s`;
  const whole = Math.round(s);
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

/** Wall-clock time of day, milliseconds included. */
export function clock(us: number): string {
  if (!Number.isFinite(us)) return '–';
  const d = new Date(us / 1000);
  const two = (n: number) => String(n).padStart(2, '0');
  return `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}.${String(d.getMilliseconds()).padStart(3, '0')}`;
}

/** Date and time for titles and details. */
export function full(us: number): string {
  if (!Number.isFinite(us)) return '–';
  const d = new Date(us / 1000);
  const two = (n: number) => String(n).padStart(2, '0');
  return `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())} ${clock(us)}`;
}

/** How long ago, coarse. */
export function ago(us: number, now: number): string {
  const s = Math.max(0, (now - us) / 1e6);
  if (!Number.isFinite(s)) return '–';
  if (s < 60) return `${Math.floor(s)} s ago`;
  if (s < 3600) return `${Math.floor(s / 60)} min ago`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ago`;
  return `${Math.floor(s / 86400)} d ago`;
}

/** Round positions for an axis from 0 to span microseconds, about `count` of them. */
export function ticks(span: number, count: number): number[] {
  if (!(span > 0) || count < 1) return [0];
  const raw = span / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = ([1, 2, 5, 10].find((f) => f * power >= raw) ?? 10) * power;
  const out: number[] = [];
  for (let i = 0; i * step <= span; i++) out.push(i * step);
  return out;
}
