//go:build linux

package testservers

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// ctlTimeout bounds one call of rabbitmqctl, which starts a virtual machine of its own each time.
const ctlTimeout = 4 * time.Minute

// RabbitMQ is a RabbitMQ broker of the test's own, without plugins.
type RabbitMQ struct {
	*Server
	programs string // the directory of rabbitmq-server and rabbitmqctl
}

// StartRabbitMQ starts a broker; each setting is a line for its rabbitmq.conf.
func StartRabbitMQ(t T, settings ...string) *RabbitMQ {
	t.Helper()
	r := &RabbitMQ{Server: newServer(t, "RabbitMQ", "rabbitmq", 3)}
	// The scripts behind Debian's wrappers in /usr/sbin, which insist on /var/lib/rabbitmq.
	r.programs = filepath.Dir(program(t, "/usr/lib/rabbitmq/bin/rabbitmq-server"))
	r.write("rabbitmq.conf", fmt.Sprintf(`listeners.tcp.default = %s
default_user = %s
default_pass = %s
default_user_tags.administrator = true
log.console = true
log.file = false
%s
`, r.Addr(), login, login, strings.Join(settings, "\n")))
	r.write("enabled_plugins", "[].\n")
	r.write("rabbitmq-env.conf", "") // nothing of a broker that this machine has anyway
	r.mkdir("data")
	r.startNameServer()
	r.command = func() *exec.Cmd { return r.script("rabbitmq-server") }
	r.stopSignal = syscall.SIGTERM
	r.answers = func(context.Context) error {
		conn, err := amqp.DialConfig(r.URL(), amqp.Config{Dial: amqp.DefaultDial(20 * time.Second)})
		if err != nil {
			return err
		}
		return conn.Close()
	}
	r.launch()
	return r
}

// startNameServer starts the name server of this broker's node. Left to itself, the broker would start one that outlives it.
func (r *RabbitMQ) startNameServer() {
	r.t.Helper()
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(r.nameServerPort()))
	epmd, err := spawn(exec.Command(program(r.t, "/usr/bin/epmd"), "-address", "127.0.0.1",
		"-port", strconv.Itoa(r.nameServerPort())), r.account)
	if err != nil {
		r.t.Fatalf("testservers: start epmd: %v", err)
	}
	r.t.Cleanup(epmd.kill)
	for deadline := time.Now().Add(patience); ; {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
			return
		}
		select {
		case <-time.After(lookAgain):
		case <-epmd.exited:
			r.t.Fatalf("testservers: start epmd: it exited: %v", epmd.err)
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("testservers: start epmd: no answer within %v: %v", patience, err)
		}
	}
}

func (r *RabbitMQ) nameServerPort() int { return r.place.ports[2] }

// soonTriedAgain has what is dead-lettered and finds no queue, or loses its way in a restart, tried again after 10 s; the
// broker's own default is three minutes.
const soonTriedAgain = "-rabbit dead_letter_worker_publisher_confirm_timeout 10000"

// script makes a command of one of RabbitMQ's scripts, bound to this node.
func (r *RabbitMQ) script(name string, args ...string) *exec.Cmd {
	onLoopback := "-kernel inet_dist_use_interface {127,0,0,1}"
	cmd := exec.Command(filepath.Join(r.programs, name), args...)
	cmd.Dir = r.place.dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"),
		"LANG=C.UTF-8",
		"HOME=" + r.place.dir,     // where the cookie is, which lets rabbitmqctl in
		"RUNNING_UNDER_SYSTEMD=1", // the script becomes the server, so that signals reach it
		"RABBITMQ_NODENAME=waybill-" + strconv.Itoa(r.place.ports[0]) + "@localhost",
		"RABBITMQ_CONF_ENV_FILE=" + r.file("rabbitmq-env.conf"),
		"RABBITMQ_CONFIG_FILE=" + r.file("rabbitmq.conf"),
		"RABBITMQ_ADVANCED_CONFIG_FILE=" + r.file("advanced.config"), // absent, like /etc/rabbitmq is to us
		"RABBITMQ_ENABLED_PLUGINS_FILE=" + r.file("enabled_plugins"),
		"RABBITMQ_MNESIA_BASE=" + r.file("data"),
		"RABBITMQ_LOG_BASE=" + r.place.dir,
		"RABBITMQ_DIST_PORT=" + strconv.Itoa(r.place.ports[1]),
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-start_epmd false " + onLoopback + " " + soonTriedAgain,
		"RABBITMQ_CTL_ERL_ARGS=-start_epmd false " + onLoopback,
		"ERL_EPMD_ADDRESS=127.0.0.1",
		"ERL_EPMD_PORT=" + strconv.Itoa(r.nameServerPort()),
	}
	return cmd
}

// URL is for AMQP clients, and names the default virtual host. The account may do everything.
func (r *RabbitMQ) URL() string { return r.URLVia(r.Addr()) }

// URLVia is the URL of a client that connects through addr, a proxy's address.
func (r *RabbitMQ) URLVia(addr string) string {
	broker := url.URL{Scheme: "amqp", User: url.UserPassword(login, login), Host: addr, Path: "/"}
	return broker.String()
}

// Ctl runs rabbitmqctl on this broker and returns what it printed. It takes a second or two.
func (r *RabbitMQ) Ctl(args ...string) string {
	r.t.Helper()
	r.mustRun("ask")
	ctx, cancel := context.WithTimeout(context.Background(), ctlTimeout)
	defer cancel()
	output, err := r.run(ctx, r.script("rabbitmqctl", append([]string{"--quiet"}, args...)...))
	if err != nil {
		r.t.Fatalf("testservers: %v", err)
	}
	return output
}

// KeepQueues restarts the broker cleanly, so that it keeps its queues when it is killed: RabbitMQ 3.10 may forget a queue that
// was declared seconds before, with all that it has acked, or find no leader for it. What it remembers after a clean restart it
// remembers for good.
func (r *RabbitMQ) KeepQueues() {
	r.t.Helper()
	r.Stop()
	r.Start()
}

// SetMemoryAlarm raises the broker's memory alarm, or clears it: while it lasts, the broker reads nothing from connections
// that publish. When it returns the alarm is on or off; clients hear of it soon after.
func (r *RabbitMQ) SetMemoryAlarm(on bool) {
	r.t.Helper()
	if on {
		r.Ctl("set_vm_memory_high_watermark", "0")
	} else {
		r.Ctl("set_vm_memory_high_watermark", "0.4")
	}
}
