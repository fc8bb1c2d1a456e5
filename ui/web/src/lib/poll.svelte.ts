import { ApiError, get } from './api';

/** A resource of the node that is fetched again and again while its page is open and the tab is visible. */
export class Poll<T> {
  data = $state.raw<T | null>(null);
  error = $state.raw<ApiError | null>(null);
  at = $state(0); // when data was last fetched, microseconds since 1970
  loading = $state(false);

  /** Fetches path now and again after what `pause` says in milliseconds (0 = never). Returns what ends it. */
  start(path: string, pause: () => number): () => void {
    const stop = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const load = async () => {
      this.loading = true;
      try {
        const data = await get<T>(path, stop.signal);
        this.data = data;
        this.error = null;
        this.at = Date.now() * 1000;
      } catch (err) {
        if (stop.signal.aborted) return;
        this.error = err instanceof ApiError ? err : new ApiError(0, String(err));
        if (this.error.status === 404) this.data = null;
      } finally {
        this.loading = false;
      }
      const wait = pause();
      if (wait > 0) timer = setTimeout(turn, wait);
    };
    const turn = () => {
      if (stop.signal.aborted) return;
      if (document.hidden) timer = setTimeout(turn, 1000);
      else void load();
    };
    void load();
    return () => {
      clearTimeout(timer);
      stop.abort();
    };
  }
}
