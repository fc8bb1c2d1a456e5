/** What went wrong, in words for the page. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

/** GETs JSON from the node. */
export async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  let res: Response;
  try {
    res = await fetch(path, { signal, headers: { Accept: 'application/json' } });
  } catch (err) {
    if (signal?.aborted) throw err;
    throw new ApiError(0, 'The node does not answer. Is weft still running, and is this its admin address?');
  }
  const body = await res.text();
  let json: unknown;
  try {
    json = JSON.parse(body);
  } catch {
    throw new ApiError(res.status, `The node answered ${path} with ${res.status} and no JSON.`);
  }
  if (!res.ok) {
    const p = json as { title?: string; detail?: string };
    throw new ApiError(res.status, p.detail || p.title || `The node answered with status ${res.status}.`);
  }
  return json as T;
}
