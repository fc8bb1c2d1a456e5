package app

import (
	"context"
	"net/http"

	"weft.dev/weft/bridge"
	"weft.dev/weft/gateway"
	"weft.dev/weft/gateway/webhook"
	"weft.dev/weft/internal/dlq"
	"weft.dev/weft/internal/httpd"
	"weft.dev/weft/internal/run"
	"weft.dev/weft/trace"
)

// roles builds and runs what stands on the mesh, which is ready by now.
func (n *Node) roles(ctx context.Context) error {
	b := n.mesh.Bus()
	hooks, err := webhook.New(n.cfg.Gateway.Webhooks, webhook.Deps{
		Scope: n.scope, Source: b, Conn: b.Conn(), Site: n.cfg.Site, Node: n.cfg.Node, Replicas: n.cfg.Mesh.Replicas(),
	})
	if err != nil {
		return err
	}
	gate, err := gateway.New(n.cfg.Gateway.Config, gateway.Deps{
		Scope: n.scope, Log: b, Publisher: b, Site: n.cfg.Site, Node: n.cfg.Node,
		Listener: n.listeners[listenGateway],
		Mount:    map[string]http.Handler{"/v1/webhooks": hooks.Handler(), "/v1/webhooks/": hooks.Handler()},
	})
	if err != nil {
		return err
	}
	letters := dlq.New(b, n.cfg.Mesh.Replicas(), n.scope)
	bridges, err := bridge.New(n.cfg.Bridges, bridge.Deps{Scope: n.scope, Site: n.cfg.Site, Mesh: b, DeadLetters: letters})
	if err != nil {
		return err
	}
	admin, err := n.adminRoutes(parts{gateway: gate, webhooks: hooks, bridges: bridges, letters: letters})
	if err != nil {
		return err
	}
	services := []run.Service{
		run.Named("sidecar spans", trace.NewReceiver(b.Conn(), n.spans, n.log)),
		run.Named("trace answers", trace.NewServer(b.Conn(), n.store, n.log)),
		run.Named("bridges", bridges),
		run.Named("gateway", gate), // takes events while webhooks still wait for their streams, as in an election
		run.Named("webhooks", hooks),
	}
	if l := n.listeners[listenOTLP]; l != nil {
		services = append(services, run.Named("otlp", httpd.New("otlp", l, trace.Ingest(n.spans, n.log), n.log)))
	}
	services = append(
		services,
		run.Named("admin", httpd.New("admin", n.listeners[listenAdmin], admin, n.log)),
		run.Func(n.announce),
	)
	return run.Stack(ctx, services...)
}

// announce tells that the node is ready, and where.
func (n *Node) announce(ctx context.Context) error {
	n.log.InfoContext(ctx, "node ready", "site", n.cfg.Site, "node", n.cfg.Node, "version", n.version,
		"gateway", n.url(listenGateway), "console", n.url(listenAdmin), "nats", n.ClientURL(), "data", n.cfg.Data)
	close(n.ready)
	<-ctx.Done()
	return nil
}
