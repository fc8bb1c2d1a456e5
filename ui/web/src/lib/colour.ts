/** Number of service colours in app.css (--s0 …). */
const colours = 7;

/** The colour of a service: always the same for the same name. Labels carry the name; the colour only helps the eye. */
export function colourOf(service: string): string {
  if (service === 'weft') return 'var(--weft)'; // the ground on which the services stand out
  let h = 2166136261;
  for (let i = 0; i < service.length; i++) h = Math.imul(h ^ service.charCodeAt(i), 16777619);
  return `var(--s${(h >>> 0) % colours})`;
}

/** Colours for the services of one journey: no two alike as long as there are enough. */
export function palette(services: string[]): Map<string, string> {
  const out = new Map<string, string>();
  const taken = new Set<string>();
  for (const s of [...services].sort()) {
    let colour = colourOf(s);
    for (let i = 0; i < colours && taken.has(colour); i++) colour = `var(--s${(Number(/\d+/.exec(colour)?.[0] ?? 0) + 1) % colours})`;
    taken.add(colour);
    out.set(s, colour);
  }
  return out;
}
