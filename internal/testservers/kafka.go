//go:build linux

package testservers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillmq/waybill/internal/testenv"
)

// Kafka is an Apache Kafka node of the test's own: broker and controller in one, without topics. It creates none by itself.
type Kafka struct {
	*Server
	java, jars string
}

// StartKafka starts a node; each setting is a line for its server.properties. Clients need no login at Addr, where they
// are ANONYMOUS, and one by PLAIN or SCRAM at LoginAddr.
func StartKafka(t T, settings ...string) *Kafka {
	t.Helper()
	k := &Kafka{Server: newServer(t, "Kafka", "nobody", 3)}
	k.java = program(t, "/usr/bin/java", "/usr/local/bin/java")
	k.jars = filepath.Dir(program(t, filepath.Join(servicesDir(), "kafka-jars", "kafka_*.jar")))
	data := k.mkdir("data")
	k.write("server.properties", fmt.Sprintf(`process.roles=broker,controller
node.id=1
controller.quorum.voters=1@%[1]s
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://%[2]s,LOGIN://%[3]s,CONTROLLER://%[1]s
advertised.listeners=PLAINTEXT://%[2]s,LOGIN://%[3]s
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,LOGIN:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.login.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_%[4]s="%[4]s";
listener.name.login.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.login.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
log.dirs=%[5]s
auto.create.topics.enable=false
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
# A node that was killed may come back only when the controller has given up its predecessor.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
%[6]s
`, k.address(1), k.Addr(), k.LoginAddr(), login, data, strings.Join(settings, "\n")))
	scram := func(mechanism string) string {
		return fmt.Sprintf("--add-scram=%s=[name=%s,password=%s]", mechanism, login, login)
	}
	k.prepare(k.tool("kafka.tools.StorageTool", "format", "--config", k.file("server.properties"),
		"--cluster-id", "AAAAAAAAAAAAAAAAAAAAAQ", scram("SCRAM-SHA-256"), scram("SCRAM-SHA-512")))
	k.command = func() *exec.Cmd { return k.tool("kafka.Kafka", k.file("server.properties")) }
	k.stopSignal = syscall.SIGTERM
	k.answers = k.serves
	k.launch()
	return k
}

// Brokers is Addr as Kafka clients take it.
func (k *Kafka) Brokers() []string { return []string{k.Addr()} }

// LoginAddr is where clients must log in; user and password are "waybill".
func (k *Kafka) LoginAddr() string { return k.address(2) }

// CreateTopic makes a topic with that many partitions, and with settings of its own, each as name and value.
func (k *Kafka) CreateTopic(topic string, partitions int, settings ...[2]string) {
	k.t.Helper()
	if err := testenv.CreateKafkaTopic(k.Brokers(), topic, partitions, settings...); err != nil {
		k.t.Fatalf("testservers: make topic %q: %v", topic, err)
	}
}

func (k *Kafka) address(port int) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(k.place.ports[port]))
}

// tool makes a command of one of Kafka's programs. The compiler is kept from optimising and the collector from running
// in parallel: these servers are short-lived, and several may share a small machine.
func (k *Kafka) tool(class string, args ...string) *exec.Cmd {
	options := []string{"-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", filepath.Join(k.jars, "*"), class}
	cmd := exec.Command(k.java, append(options, args...)...)
	cmd.Dir = k.place.dir
	return cmd
}

// serves succeeds once the broker may lead partitions: it answers some while before that.
func (k *Kafka) serves(ctx context.Context) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(k.Addr()), kgo.RequestRetries(0))
	if err != nil {
		return err
	}
	defer client.Close()
	response, err := kmsg.NewPtrMetadataRequest().RequestWith(ctx, client)
	if err != nil {
		return err
	}
	if len(response.Brokers) == 0 {
		return errors.New("the broker has not joined the cluster yet")
	}
	return nil
}

// servicesDir is where `make services-up` keeps what it fetched.
func servicesDir() string {
	if dir := os.Getenv("WAYBILL_SERVICES_DIR"); dir != "" {
		return dir
	}
	return "/tmp/waybill-services"
}
