# Everything that a developer or a CI job runs. Each target works in every Go module of the repository.

# What needs servers carries the build tag "services"; what runs for long carries "soak" as well. With "stress" Watermill's
# own suite for brokers waits for 75 s in place of 15: a machine with two cores that runs everything can be slow.
GOLANGCI_LINT := go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
EACH_MODULE   := scripts/each-module.sh
BENCH         := go test -tags services -run '^$$$$' -bench . -benchtime 1x -timeout 1h

.DEFAULT_GOAL := help

.PHONY: help
help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-25s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: run
run: ## Run the quick start, which needs nothing installed
	go run ./examples/quickstart

.PHONY: run-rabbitmq
run-rabbitmq: services-up ## Run the example on RabbitMQ and a database server
	go run ./examples/rabbitmq

.PHONY: run-matrix
run-matrix: services-up ## Run one binary over every combination of databases, brokers and strategies
	go run ./examples/matrix/all

.PHONY: run-delayedcheck
run-delayedcheck: ## Run the example that keeps no message row, with processes that are killed; needs nothing installed
	go run ./examples/delayedcheck

.PHONY: run-delayedcheck-services
run-delayedcheck-services: services-up ## Run that example on RabbitMQ and MariaDB, Kafka and PostgreSQL, PostgreSQL alone
	go run ./examples/delayedcheck -on RabbitMQ+MariaDB,Kafka+PostgreSQL,PostgreSQL+PostgreSQL

.PHONY: run-compensation
run-compensation: ## Run the example of what becomes of messages that cannot be sent; needs nothing installed
	go run ./examples/compensation

.PHONY: run-poison
run-poison: ## Run the example of a message that cannot be processed
	go run ./examples/poison

.PHONY: test
test: services-up vet ## Run every test, on real servers and with the race detector
	$(EACH_MODULE) go test -race -tags 'services stress' -timeout 30m -p 2 -count 1 ./...

# Its tests wait for NATS and SQLite more than they compute: four packages at a time take 86 s on two cores, two take 140.
.PHONY: test-short
test-short: ## Run the tests that need no server, without the race detector (under two minutes)
	$(EACH_MODULE) go test -p 4 ./...

# The lines that compare come last, all of them together and also of a run that fails half way.
define ending_with_lines
	@lines=$$(mktemp); export WAYBILL_BENCH_LINES=$$lines; $(1); status=$$?; cat $$lines; rm -f $$lines; exit $$status
endef

# What must keep a rate is not slowed down by the race detector, which the same code meets in every other test. Nor do the
# peers run with it: watermill-amqp's publisher has a race of its own when its connection is lost.
WITHOUT_RACE := ^TestSoak((Topic)?Scheduler_(keepsTenThousand|deliversAHundredThousand)|Peers)

.PHONY: test-soak
test-soak: services-up ## Run the tests that take an hour rather than minutes
	$(EACH_MODULE) go test -race -tags 'services soak' -timeout 6h -p 1 -count 1 -run 'Soak|TestModel|conforms' -skip '$(WITHOUT_RACE)' ./...
	$(call ending_with_lines,$(EACH_MODULE) go test -tags 'services soak' -timeout 6h -p 1 -count 1 -run '$(WITHOUT_RACE)' ./...)

.PHONY: services-up
services-up: ## Install (Debian, root) and start the servers that tests need, on loopback
	@scripts/services.sh up

.PHONY: services-down
services-down: ## Stop what services-up started
	@scripts/services.sh down

.PHONY: bench
bench: services-up ## Measure against the yardsticks and the peers (a quarter to half an hour on two idle cores)
	$(call ending_with_lines,$(BENCH) ./benchmarks/...; first=$$?; (cd benchmarks/peers && $(BENCH) ./...) && (exit $$first))

.PHONY: bench-full
bench-full: services-up ## Measure everything, peers and long runs included
	$(call ending_with_lines,$(EACH_MODULE) go test -tags 'services soak' -run '^$$' -bench . -timeout 6h -p 1 ./...)

.PHONY: charts
charts: ## Draw the charts of docs/performance.md from benchmarks/results
	cd benchmarks/charts && go run .

.PHONY: lint
lint: ## Run the linters (fetches and builds them the first time)
	$(EACH_MODULE) $(GOLANGCI_LINT) run ./...

.PHONY: fmt
fmt: ## Format the code
	$(EACH_MODULE) $(GOLANGCI_LINT) fmt ./...

.PHONY: vet
vet: ## Run go vet, on all files whatever their build tags
	$(EACH_MODULE) go vet -tags 'services soak' ./...

.PHONY: tidy-check
tidy-check: ## Fail if a go.mod or go.sum is not as `go mod tidy` would leave it
	$(EACH_MODULE) go mod tidy -diff
