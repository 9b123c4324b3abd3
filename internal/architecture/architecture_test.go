package architecture_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const module = "github.com/waybillmq/waybill/"

// listed is what the go command says about one package, without its tests.
type listed struct {
	ImportPath string
	Standard   bool
	Imports    []string // direct ones
	Deps       []string // indirect ones as well
}

type graph map[string]listed

func TestDependencies_pointOneWay(t *testing.T) {
	graph := listPackages(t)
	require.Contains(t, graph, module+"reliable", "the list is not of this module")
	assert.Empty(t, violations(graph))
}

// Each graph breaks one rule; were the rules not to see it, they would not see it in the code either.
func TestViolations_areSeen(t *testing.T) {
	const (
		tagging  = module + "strategies/tagging"
		mysql    = module + "adapters/mysqlstore"
		rabbit   = module + "adapters/rabbitmqbroker"
		sqlstore = module + "adapters/internal/sqlstore"
		nats     = module + "adapters/natsbroker"
	)
	for _, c := range []struct {
		name    string
		graph   graph
		because string // "" is for what is allowed
	}{
		{"the core with a library", of(module+"reliable", "github.com/google/uuid"), "the standard library and watermill/message"},
		{"the core with a part of this module", of(module+"reliable", module+"internal/ids"), "the standard library and watermill/message"},
		{"the core with Watermill's messages", of(module+"reliable", "github.com/ThreeDotsLabs/watermill/message"), ""},
		{"a strategy with an adapter", of(tagging, mysql), "import each other"},
		{"an adapter with a strategy", of(mysql, tagging), "import each other"},
		{"an adapter with another", of(mysql, rabbit), "imports another adapter"},
		{"an adapter with a fake", of(mysql, module+"adapters/memstore"), "imports another adapter"},
		{"an adapter with what adapters share", of(mysql, sqlstore), ""},
		{"an adapter with a part of its own", of(nats+"/embedded", nats), ""},
		{"middleware that wires", of(module+"middleware", tagging, mysql), "wires"},
		{"an example that wires", of(module+"examples/quickstart", tagging, mysql, "testing"), ""},
		{"production with testing", of(tagging, "testing"), "test code"},
		{"production with an assertion library", of(rabbit, "github.com/stretchr/testify/assert"), "test code"},
		{"production with a fake", of(module+"middleware", module+"adapters/membroker"), "test code"},
		{"production with a test helper", of(tagging, module+"internal/testenv"), "test code"},
		{"a conformance suite with testing", of(module+"reliable/storetest", "testing"), ""},
		{"a store with a broker's client", of(mysql, "github.com/rabbitmq/amqp091-go"), "links"},
		{"a broker with its client", of(rabbit, "github.com/rabbitmq/amqp091-go"), ""},
		{"a strategy with a database's client", of(tagging, "github.com/jackc/pgx/v5"), "links"},
		{"what adapters share with a client", of(sqlstore, "github.com/go-sql-driver/mysql"), "links"},
		{"a NATS client with the server", of(nats, "github.com/nats-io/nats-server/v2/server"), "links"},
		{"the embedded NATS server with the server", of(nats+"/embedded", "github.com/nats-io/nats-server/v2/server"), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			found := violations(c.graph)
			if c.because == "" {
				assert.Empty(t, found)
				return
			}
			assert.Contains(t, strings.Join(found, "\n"), c.because)
		})
	}
}

// Test code inside this module is seen through packages of our own, however many lie between.
func TestViolations_seeTestCodeBehindAPackageOfOurs(t *testing.T) {
	g := of(module+"strategies/tagging", module+"internal/helper")
	g[module+"internal/helper"] = listed{ImportPath: module + "internal/helper", Imports: []string{"testing"}}
	assert.Contains(t, strings.Join(violations(g), "\n"), "test code")
}

// of is the graph of one package with its imports.
func of(path string, imports ...string) graph {
	return graph{path: {ImportPath: path, Imports: imports, Deps: imports}, "testing": {ImportPath: "testing", Standard: true}}
}

func violations(g graph) []string {
	var found []string
	for path, p := range g {
		if !ours(path) {
			continue
		}
		for _, rule := range []func(graph, listed) string{
			coreImportsNothing, strategiesAndAdaptersStayApart, adaptersStayApart, onlyEdgesWire, productionHasNoTestCode,
			clientsAreLinkedByTheirAdapters,
		} {
			if complaint := rule(g, p); complaint != "" {
				found = append(found, strings.TrimPrefix(path, module)+" "+complaint)
			}
		}
	}
	slices.Sort(found)
	return found
}

func coreImportsNothing(g graph, p listed) string {
	if p.ImportPath != module+"reliable" {
		return ""
	}
	for _, path := range p.Imports {
		if !g[path].Standard && path != "github.com/ThreeDotsLabs/watermill/message" {
			return "imports " + path + ", but may only import the standard library and watermill/message"
		}
	}
	return ""
}

func strategiesAndAdaptersStayApart(_ graph, p listed) string {
	if under(p.ImportPath, "strategies") && slices.ContainsFunc(p.Deps, isUnder("adapters")) ||
		under(p.ImportPath, "adapters") && slices.ContainsFunc(p.Deps, isUnder("strategies")) {
		return "depends on the other kind: strategies and adapters never import each other"
	}
	return ""
}

func adaptersStayApart(_ graph, p listed) string {
	own := adapter(p.ImportPath)
	if own == "" {
		return ""
	}
	for _, path := range p.Deps {
		if other := adapter(path); other != "" && other != own && other != "internal" {
			return "imports another adapter, " + other
		}
	}
	return ""
}

func onlyEdgesWire(_ graph, p listed) string {
	if !production(p.ImportPath) || under(p.ImportPath, "cmd") {
		return ""
	}
	if slices.ContainsFunc(p.Deps, isUnder("strategies")) && slices.ContainsFunc(p.Deps, isUnder("adapters")) {
		return "wires a strategy to an adapter: only examples, benchmarks, commands and tests do"
	}
	return ""
}

func productionHasNoTestCode(g graph, p listed) string {
	if !production(p.ImportPath) {
		return ""
	}
	if path := testCode(g, p, map[string]bool{}); path != "" {
		return "imports test code: " + path
	}
	return ""
}

// testCode returns the first import of p that is for tests. It looks through our own packages; what the libraries that we
// use import is their own affair.
func testCode(g graph, p listed, seen map[string]bool) string {
	for _, path := range p.Imports {
		if forTests(path) {
			return path
		}
		if ours(path) && !seen[path] {
			seen[path] = true
			if found := testCode(g, g[path], seen); found != "" {
				return path + " -> " + found
			}
		}
	}
	return ""
}

// clients are the libraries that a user must not link unless an adapter that needs them is used.
var clients = []struct {
	library string
	users   []string // packages, and what lies beneath them
}{
	{"github.com/rabbitmq/amqp091-go", []string{"adapters/rabbitmqbroker"}},
	{"github.com/ThreeDotsLabs/watermill-amqp", []string{"adapters/rabbitmqbroker"}},
	{"github.com/go-sql-driver/mysql", []string{"adapters/mysqlstore", "adapters/sqlbroker"}},
	{"github.com/jackc/pgx", []string{"adapters/postgresstore", "adapters/sqlbroker"}},
	{"github.com/ThreeDotsLabs/watermill-sql", []string{"adapters/sqlbroker"}},
	{"modernc.org/sqlite", []string{"adapters/sqlitestore"}},
	{"github.com/nats-io/nats.go", []string{"adapters/natsbroker"}},
	{"github.com/ThreeDotsLabs/watermill-nats", []string{"adapters/natsbroker"}},
	{"github.com/nats-io/nats-server", []string{"adapters/natsbroker/embedded"}},
	{"github.com/twmb/franz-go", []string{"adapters/kafkabroker"}},
	{"github.com/IBM/sarama", []string{"adapters/kafkabroker"}},
	{"github.com/ThreeDotsLabs/watermill-kafka", []string{"adapters/kafkabroker"}},
}

func clientsAreLinkedByTheirAdapters(_ graph, p listed) string {
	if !production(p.ImportPath) || under(p.ImportPath, "cmd") {
		return ""
	}
	for _, client := range clients {
		if slices.ContainsFunc(client.users, func(user string) bool { return under(p.ImportPath, user) }) {
			continue
		}
		for _, path := range p.Deps {
			if path == client.library || strings.HasPrefix(path, client.library+"/") {
				return fmt.Sprintf("links %s, which is for %s", path, strings.Join(client.users, ", "))
			}
		}
	}
	return ""
}

func ours(path string) bool { return strings.HasPrefix(path, module) }

// under says whether path is the package at folder, or beneath it.
func under(path, folder string) bool {
	return path == module+folder || strings.HasPrefix(path, module+folder+"/")
}

func isUnder(folder string) func(string) bool {
	return func(path string) bool { return under(path, folder) }
}

// adapter is the folder directly beneath adapters/ that path is in: "internal" is what they share.
func adapter(path string) string {
	if !under(path, "adapters") {
		return ""
	}
	name, _, _ := strings.Cut(strings.TrimPrefix(path, module+"adapters/"), "/")
	return name
}

// production says whether users link the package. What remains is for tests, or wires things to show or measure them.
func production(path string) bool {
	return !forTests(path) &&
		slices.ContainsFunc([]string{"reliable", "strategies", "adapters", "middleware", "cmd"}, func(folder string) bool {
			return under(path, folder)
		})
}

func forTests(path string) bool {
	for _, library := range []string{
		"testing", "github.com/stretchr/testify", "go.uber.org/goleak", "pgregory.net/rapid",
		"github.com/ThreeDotsLabs/watermill/pubsub/tests", "github.com/twmb/franz-go/pkg/kfake",
		module + "adapters/memstore", module + "adapters/membroker",
		module + "reliable/storetest", module + "reliable/brokertest", module + "reliable/schedulertest", module + "reliable/witnesstest",
		module + "adapters/internal/servertest",
		module + "internal/testenv", module + "internal/testservers", module + "internal/faultproxy",
	} {
		if path == library || strings.HasPrefix(path, library+"/") {
			return true
		}
	}
	return false
}

func listPackages(t *testing.T) graph {
	t.Helper()
	// -e lists what does not compile as well; the compiler complains of that better than this test could.
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-deps", "-json=ImportPath,Standard,Imports,Deps", module+"...")
	output, err := cmd.Output()
	require.NoError(t, err)
	result := graph{}
	for decoder := json.NewDecoder(strings.NewReader(string(output))); ; {
		var p listed
		err := decoder.Decode(&p)
		if errors.Is(err, io.EOF) {
			return result
		}
		require.NoError(t, err)
		result[p.ImportPath] = p
	}
}
