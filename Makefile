.DEFAULT_GOAL := help

.PHONY: help
help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: services-up
services-up: ## Install (Debian, root) and start RabbitMQ, MariaDB and PostgreSQL for the tests, on loopback
	scripts/services.sh up

.PHONY: services-down
services-down: ## Stop what services-up started
	scripts/services.sh down
