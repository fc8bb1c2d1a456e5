/** JSON of /api/journeys, as the node's trace package writes it. */
export type Attrs = Record<string, unknown>;

export interface Link {
  traceId: string;
  spanId: string;
  attrs?: Attrs;
}

export interface SpanEvent {
  time: string;
  name: string;
  attrs?: Attrs;
}

export type Relation = 'root' | 'child' | 'cause' | 'link' | 'orphan';

export interface Row {
  traceId: string;
  spanId: string;
  parentId?: string;
  name: string;
  kind: string;
  start: string;
  end: string;
  status: 'unset' | 'ok' | 'error';
  statusMessage?: string;
  service: string;
  site?: string;
  node?: string;
  attrs?: Attrs;
  links?: Link[];
  events?: SpanEvent[];
  depth: number;
  relation: Relation;
  under?: string;
}

export interface Journey {
  id: string;
  name: string;
  traceIds: string[];
  correlationIds: string[];
  start: string;
  end: string;
  durationMs: number;
  sites: string[];
  services: string[];
  errors: number;
  partial: boolean;
  silent?: string[];
  truncated?: boolean;
  rows: Row[];
}

export interface Bar {
  at: number;
  for: number;
  service: string;
  error?: boolean;
}

export interface Summary {
  id: string;
  traceId: string;
  correlationId?: string;
  name: string;
  start: string;
  end: string;
  durationMs: number;
  spans: number;
  traces: number;
  sites: string[];
  services: string[];
  error: boolean;
  shape: Bar[] | null;
}

export interface Recent {
  journeys: Summary[];
  partial: boolean;
  silent?: string[];
}
