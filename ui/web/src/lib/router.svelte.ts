/** The page's address is its state: every view reads its parameters from here and writes them back. */
class Router {
  path = $state(location.pathname);
  query = $state.raw(new URLSearchParams(location.search));

  constructor() {
    addEventListener('popstate', () => this.read());
    addEventListener('click', (e) => {
      if (e.defaultPrevented || e.button !== 0 || e.metaKey || e.ctrlKey || e.shiftKey || e.altKey) return;
      const a = (e.target as Element | null)?.closest?.('a');
      if (!a || a.target || a.origin !== location.origin || a.hasAttribute('download') || a.dataset.reload !== undefined) return;
      e.preventDefault();
      this.go(a.pathname + a.search);
    });
  }

  private read() {
    this.path = location.pathname;
    this.query = new URLSearchParams(location.search);
  }

  go(href: string) {
    if (href === this.path + location.search) return;
    const moved = new URL(href, location.href).pathname !== this.path;
    history.pushState(null, '', href);
    this.read();
    if (moved) scrollTo(0, 0);
  }

  /** Changes parameters without a new entry in the browser's history; an empty value removes one. */
  set(params: Record<string, string>) {
    const q = new URLSearchParams(this.query);
    for (const [k, v] of Object.entries(params)) v ? q.set(k, v) : q.delete(k);
    const search = q.toString();
    history.replaceState(null, '', this.path + (search ? `?${search}` : ''));
    this.query = q;
  }
}

export const router = new Router();

export function journeyHref(id: string): string {
  return `/journeys/${encodeURIComponent(id)}`;
}
