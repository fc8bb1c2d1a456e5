# Only Go is needed; `ui` also wants Node.
GO       ?= go
LINT      = $(GO) run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
FUZZTIME ?= 5s
CHAOSTIME ?= 3m
SEED     ?= 1
export CGO_ENABLED

.PHONY: build demo test check lint fmt race tidy docs fuzz chaos ui ui-check

build: CGO_ENABLED = 0
build: ## bin/weft and the slim bin/weft-sidecar, static
	$(GO) build -trimpath -ldflags='-s -w' -o bin/ ./cmd/weft ./cmd/weft-sidecar

demo: ## two linked sites with a shop, Kafka, SNS and a partner
	$(GO) run ./cmd/weft demo

test: ## what the README says
	$(GO) test ./...

check: lint tidy race ui-check ## everything CI holds a change against, but fuzz and demo

lint: ## formatting, vet, staticcheck and the rest of .golangci.yml
	$(LINT) run ./...

fmt:
	$(LINT) fmt ./...

race: ## all tests with the race detector; they also hold docs against the code
	$(GO) test -race -timeout 20m ./...

tidy:
	$(GO) mod tidy -diff

docs: ## write docs/config.md from the configuration types
	$(GO) test ./internal/app -run '^TestConfigReference$$' -update

fuzz: ## every fuzz target for FUZZTIME
	@set -e; grep -r --include='*_test.go' -oE '^func Fuzz[A-Za-z0-9_]+' . | sort | \
	while IFS=: read -r file decl; do \
		target=$${decl#func }; dir=$$(dirname "$$file"); \
		echo "fuzz $$dir $$target"; \
		$(GO) test "$$dir" -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1s; \
	done

chaos: build ## 3 sites of 3 nodes that are killed and cut for CHAOSTIME; SEED decides how
	./bin/weft load chaos --duration $(CHAOSTIME) --seed $(SEED)

ui: ## build ui/dist from ui/web
	cd ui/web && npm ci --no-audit --no-fund && npm run build

ui-check: ## ui/dist is what ui/web builds; without Node, nothing is checked
	@if ! command -v node >/dev/null; then echo "ui-check: no Node here, skipped"; exit 0; fi; \
	set -e; was=$$(mktemp -d); trap 'rm -rf "$$was"' EXIT; \
	cp -R ui/dist "$$was/dist"; $(MAKE) --no-print-directory ui; diff -r "$$was/dist" ui/dist
