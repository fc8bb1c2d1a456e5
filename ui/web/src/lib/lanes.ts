import type { Bar } from './types';

/** Places bars, sorted by start, into as few lanes as keep them apart; at most `most`, then the emptiest takes more. */
export function lanes(bars: Bar[], most: number): { lane: number[]; count: number } {
  const ends: number[] = [];
  const lane = bars.map((bar) => {
    let at = ends.findIndex((end) => end <= bar.at);
    if (at < 0 && ends.length < most) at = ends.length;
    if (at < 0) at = ends.indexOf(Math.min(...ends));
    ends[at] = Math.max(ends[at] ?? 0, bar.at + bar.for);
    return at;
  });
  return { lane, count: ends.length };
}
