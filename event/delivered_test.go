package event_test

import (
	"testing"

	"weft.dev/weft/event"
)

func TestDeliveredTellsTheSubject(t *testing.T) {
	tests := []struct {
		name, path, kind, had, want string
	}{
		{"type is the subject", "orders.created", "orders.created", "", ""},
		{"type of its own", "orders.created", "com.shop.order", "", "orders.created"},
		{"left over from an earlier delivery", "orders.created", "orders.created", "old", ""},
		{"published again elsewhere", "copy.orders", "com.shop.order", "orders.created", "copy.orders"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := event.Stored{Path: tt.path}
			s.Type = tt.kind
			s.SetExtension(event.ExtSubject, tt.had)
			if got := s.Delivered().Extensions[event.ExtSubject]; got != tt.want {
				t.Errorf("weftsubject = %q, want %q", got, tt.want)
			}
			if got := s.Extensions[event.ExtSubject]; got != tt.had {
				t.Errorf("the stored event was changed to %q", got)
			}
		})
	}
}
