const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });

/** A count with thousands separated by thin spaces. */
export function count(n: number | undefined): string {
  return n === undefined || !Number.isFinite(n) ? '–' : whole.format(n).replaceAll(',', '\u202f');
}

/** A size in bytes with a binary unit. */
export function bytes(n: number | undefined): string {
  if (n === undefined || !Number.isFinite(n)) return '–';
  let value = n;
  for (const unit of ['B', 'KiB', 'MiB', 'GiB']) {
    if (value < 1024) return `${value < 10 && unit !== 'B' ? value.toFixed(1) : Math.round(value)} ${unit}`;
    value /= 1024;
  }
  return `${value.toFixed(1)} TiB`;
}

/** A rate per second. */
export function rate(n: number | undefined): string {
  if (n === undefined || !Number.isFinite(n)) return '–';
  return `${n < 10 ? n.toFixed(1) : count(n)}/s`;
}
