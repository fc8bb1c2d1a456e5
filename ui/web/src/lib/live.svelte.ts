import { events, latest, tailed, type Frame, type Tailed } from './tail';

export type State = 'connecting' | 'live' | 'retrying' | 'refused';

const shownLimit = 300; // rows in the page
const flushLimit = 40; // rows that are new at once; nobody reads faster, and more would make the page stutter
const backlogLimit = 2000; // events that wait while the list is paused
const flushEvery = 120; // ms: the page is drawn at most eight times a second, however fast events come
const retryMost = 8000; // ms

/** The live tail: one WebSocket with one subscription, and the newest events. */
export class Live {
  list = $state.raw<Tailed[]>([]);
  state = $state<State>('connecting');
  why = $state('');
  paused = $state(false);
  waiting = $state(0); // events that came while paused
  total = $state(0);
  skipped = $state(0); // events that came too fast to show
  gap = $state('');

  private fresh: Tailed[] = [];
  private n = 0;

  /** Follows pattern until the returned function is called. */
  start(pattern: string): () => void {
    let socket: WebSocket | undefined;
    let ended = false;
    let tries = 0;
    let retry: ReturnType<typeof setTimeout> | undefined;
    this.list = [];
    this.fresh = [];
    this.total = this.skipped = this.waiting = 0;
    this.why = this.gap = '';

    const connect = () => {
      this.state = tries === 0 ? 'connecting' : 'retrying';
      const ws = new WebSocket(`${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/v1/ws`, 'weft.json.v1');
      socket = ws;
      ws.onopen = () => ws.send(JSON.stringify({ t: 'hello', v: 1, name: 'weft-console', caps: ['evs'] }));
      ws.onmessage = (m) => {
        const frame = parse(m.data);
        if (!frame) return;
        if (frame.t === 'welcome') ws.send(JSON.stringify({ t: 'sub', id: 'tail', subject: pattern, start: { live: true } }));
        else if (frame.t === 'subbed') {
          tries = 0;
          this.state = 'live';
          this.why = '';
        } else if (frame.t === 'gap') this.gap = `A gap in the stream: ${String(frame.why ?? 'unknown reason')}.`;
        else if (frame.t === 'err') {
          this.why = String(frame.msg ?? frame.code ?? 'refused');
          if (frame.id === 'tail' && !frame.retry) {
            this.state = 'refused';
            ended = true;
            ws.close();
          }
        } else this.take(events(frame));
      };
      ws.onclose = () => {
        if (ended) return;
        this.state = 'retrying';
        retry = setTimeout(connect, Math.min(retryMost, 250 * 2 ** tries++) * (0.5 + Math.random() / 2));
      };
    };
    connect();
    const timer = setInterval(() => this.flush(), flushEvery);
    return () => {
      ended = true;
      clearTimeout(retry);
      clearInterval(timer);
      socket?.close();
    };
  }

  private take(list: Record<string, unknown>[]) {
    const now = Date.now() * 1000;
    for (const e of list) this.fresh.push(tailed(this.n++, e, now));
    if (this.fresh.length > backlogLimit) {
      this.skipped += this.fresh.length - backlogLimit;
      this.fresh = this.fresh.slice(-backlogLimit);
    }
  }

  private flush() {
    this.total = this.n;
    if (this.paused) {
      this.waiting = this.fresh.length;
      return;
    }
    this.waiting = 0;
    if (this.fresh.length === 0) return;
    const tooMany = Math.max(0, this.fresh.length - flushLimit);
    this.list = latest(this.list, this.fresh.slice(tooMany), shownLimit);
    this.fresh = [];
    this.skipped += tooMany;
  }
}

function parse(data: unknown): Frame | null {
  try {
    const frame: unknown = JSON.parse(String(data));
    return typeof frame === 'object' && frame !== null && 't' in frame ? (frame as Frame) : null;
  } catch {
    return null;
  }
}
