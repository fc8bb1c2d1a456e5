package shop

import (
	"context"
	"net/http"
)

// CreditLimit is what the payment service authorizes at most, in cents.
const CreditLimit = 50_000

// Orders takes orders and closes them: completed when they are shipped,
// cancelled when the payment was refused.
func Orders(sidecar string, client *http.Client) *Service {
	return &Service{Name: "orders", Sidecar: sidecar, Client: client, react: func(subject string, o Order) (string, Order) {
		switch subject {
		case "payments.refused":
			return "orders.cancelled", o
		case "shipping.dispatched":
			return "orders.completed", o
		}
		return "", o
	}}
}

// Place publishes a new order; it is accepted when Place returns nil.
func Place(ctx context.Context, orders *Service, o Order) error {
	return orders.publish(ctx, "", "orders.created", o)
}

// Payments authorizes orders up to the credit limit and refuses the rest.
func Payments(sidecar string, client *http.Client) *Service {
	return &Service{Name: "payments", Sidecar: sidecar, Client: client, react: func(subject string, o Order) (string, Order) {
		if subject != "orders.created" {
			return "", o
		}
		if o.Cents > CreditLimit {
			o.Reason = "over the credit limit"
			return "payments.refused", o
		}
		return "payments.authorized", o
	}}
}

// Inventory reserves the item of a paid order.
func Inventory(sidecar string, client *http.Client) *Service {
	return &Service{Name: "inventory", Sidecar: sidecar, Client: client, react: func(subject string, o Order) (string, Order) {
		if subject != "payments.authorized" {
			return "", o
		}
		return "inventory.reserved", o
	}}
}

// Shipping sends reserved items out.
func Shipping(sidecar string, client *http.Client) *Service {
	return &Service{Name: "shipping", Sidecar: sidecar, Client: client, react: func(subject string, o Order) (string, Order) {
		if subject != "inventory.reserved" {
			return "", o
		}
		return "shipping.dispatched", o
	}}
}
