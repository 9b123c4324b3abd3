//go:build services && linux

package testservers_test

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	_ "github.com/go-sql-driver/mysql"
	_ "github.com/jackc/pgx/v5/stdlib"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/waybillmq/waybill/internal/faultproxy"
	"github.com/waybillmq/waybill/internal/testservers"
)

const (
	patience = 3 * time.Minute        // for what must happen
	glance   = 300 * time.Millisecond // for what must not
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMariaDB_livesThroughFaults(t *testing.T) {
	t.Parallel()
	server := testservers.StartMariaDB(t)
	proxy := faultproxy.New(t, server.Addr())
	testDatabase(t, server.Server, open(t, "mysql", server.DSN()), open(t, "mysql", server.DSNVia(proxy.Addr())))
}

func TestPostgres_livesThroughFaults(t *testing.T) {
	t.Parallel()
	server := testservers.StartPostgres(t)
	proxy := faultproxy.New(t, server.Addr())
	testDatabase(t, server.Server, open(t, "pgx", server.URL()), open(t, "pgx", server.URLVia(proxy.Addr())))
}

func testDatabase(t *testing.T, server *testservers.Server, db, proxied *sql.DB) {
	exec := func(statement string) {
		t.Helper()
		_, err := db.Exec(statement)
		require.NoError(t, err)
	}
	rows := func() (n int) {
		t.Helper()
		require.NoError(t, db.QueryRow("SELECT COUNT(*) FROM things").Scan(&n))
		return n
	}

	exec("CREATE TABLE things (id INT PRIMARY KEY)")
	exec("INSERT INTO things VALUES (1)")
	require.NoError(t, proxied.Ping())

	server.Kill()
	requireRefused(t, server)
	require.Error(t, db.Ping())
	server.Start()
	require.Equal(t, 1, rows(), "a committed row is lost")
	exec("INSERT INTO things VALUES (2)")

	server.Stop()
	requireRefused(t, server)
	server.Start()
	require.Equal(t, 2, rows())

	server.Pause()
	ctx, cancel := context.WithTimeout(t.Context(), glance)
	defer cancel()
	_, err := db.ExecContext(ctx, "INSERT INTO things VALUES (3)")
	require.Error(t, err, "a paused server answered")
	server.Resume()
	require.Eventually(t, func() bool { return db.Ping() == nil }, patience, glance)

	server.Pause()
	server.Kill()
	requireRefused(t, server)
}

func TestRabbitMQ_livesThroughFaults(t *testing.T) {
	t.Parallel()
	server := testservers.StartRabbitMQ(t, "max_message_size = 1000")
	proxy := faultproxy.New(t, server.Addr())
	message := amqp.Publishing{DeliveryMode: amqp.Persistent, Body: []byte("kept")}

	conn := dial(t, server.URLVia(proxy.Addr()))
	channel := confirming(t, conn)
	_, err := channel.QueueDeclare("things", true, false, false, false, nil)
	require.NoError(t, err)
	requireConfirmed(t, publish(t, channel, message))
	closed := conn.NotifyClose(make(chan *amqp.Error, 1))
	server.Ctl("eval", "mnesia:sync_log().") // that the queue is there is in the broker's memory for a second or two
	server.Kill()
	require.Error(t, await(t, closed))
	requireRefused(t, server.Server)
	server.Start()

	conn = dial(t, server.URL())
	channel = confirming(t, conn)
	require.Equal(t, 1, queued(t, channel), "a confirmed message is lost")
	server.Pause()
	confirmation := publish(t, channel, message)
	select {
	case <-confirmation.Done():
		t.Fatal("a paused broker answered")
	case <-time.After(glance):
	}
	server.Resume()
	requireConfirmed(t, confirmation)

	blocked := conn.NotifyBlocked(make(chan amqp.Blocking, 2))
	server.SetMemoryAlarm(true)
	confirmation = publish(t, channel, message)
	require.True(t, await(t, blocked).Active)
	server.SetMemoryAlarm(false)
	require.False(t, await(t, blocked).Active)
	requireConfirmed(t, confirmation)

	closed = conn.NotifyClose(make(chan *amqp.Error, 1))
	server.Stop()
	require.Error(t, await(t, closed))
	requireRefused(t, server.Server)
	server.Start()
	conn = dial(t, server.URL())
	channel = confirming(t, conn)
	require.Equal(t, 3, queued(t, channel))
	assert.Contains(t, server.Ctl("list_queues", "name", "messages"), "things\t3")

	channelClosed := channel.NotifyClose(make(chan *amqp.Error, 1))
	publish(t, channel, amqp.Publishing{Body: make([]byte, 1001)})
	require.Equal(t, amqp.PreconditionFailed, await(t, channelClosed).Code, "the setting had no effect")
}

func TestServers_ofOneKindRunSideBySide(t *testing.T) {
	t.Parallel()
	first, second := testservers.StartPostgres(t), testservers.StartPostgres(t)
	require.NotEqual(t, first.Addr(), second.Addr())
	first.Kill()
	require.NoError(t, open(t, "pgx", second.URL()).Ping())
}

func TestServers_endWithTheTest(t *testing.T) {
	t.Parallel()
	var server *testservers.Server
	t.Run("that started it", func(t *testing.T) {
		server = testservers.StartPostgres(t).Server
		server.Pause()
	})
	requireRefused(t, server)
}

// The child of this test starts a server, says where, and is killed before it can clean up.
func TestServers_endWithATestProcessThatIsKilled(t *testing.T) {
	const inChild = "WAYBILL_TESTSERVERS_CHILD"
	if os.Getenv(inChild) != "" {
		_, err := os.Stdout.WriteString(testservers.StartPostgres(t).Addr() + "\n")
		require.NoError(t, err)
		<-t.Context().Done() // for ever: the parent kills us
	}
	t.Parallel()
	child := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	child.Env = append(os.Environ(), inChild+"=1")
	output, err := child.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	address, err := bufio.NewReader(output).ReadString('\n')
	require.NoError(t, err)
	address = strings.TrimSpace(address)
	require.NoError(t, connect(address), "the child's server does not listen")

	require.NoError(t, child.Process.Kill())
	_ = child.Wait()
	assert.Eventually(t, func() bool { return errors.Is(connect(address), syscall.ECONNREFUSED) }, patience, glance)
}

func open(t *testing.T, driver, dsn string) *sql.DB {
	t.Helper()
	db, err := sql.Open(driver, dsn)
	require.NoError(t, err)
	db.SetMaxIdleConns(0) // one that is kept would answer later with the end that it met meanwhile
	t.Cleanup(func() { assert.NoError(t, db.Close()) })
	return db
}

func dial(t *testing.T, broker string) *amqp.Connection {
	t.Helper()
	conn, err := amqp.Dial(broker)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() }) // most are closed by the broker's end
	return conn
}

func confirming(t *testing.T, conn *amqp.Connection) *amqp.Channel {
	t.Helper()
	channel, err := conn.Channel()
	require.NoError(t, err)
	require.NoError(t, channel.Confirm(false))
	return channel
}

func publish(t *testing.T, channel *amqp.Channel, message amqp.Publishing) *amqp.DeferredConfirmation {
	t.Helper()
	confirmation, err := channel.PublishWithDeferredConfirm("", "things", false, false, message)
	require.NoError(t, err)
	return confirmation
}

func requireConfirmed(t *testing.T, confirmation *amqp.DeferredConfirmation) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	acked, err := confirmation.WaitContext(ctx)
	require.NoError(t, err)
	require.True(t, acked)
}

func queued(t *testing.T, channel *amqp.Channel) int {
	t.Helper()
	queue, err := channel.QueueDeclarePassive("things", true, false, false, false, nil)
	require.NoError(t, err)
	return queue.Messages
}

func await[T any](t *testing.T, signal <-chan T) T {
	t.Helper()
	select {
	case value := <-signal:
		return value
	case <-time.After(patience):
		t.Fatal("nothing was heard")
		panic("unreachable")
	}
}

func requireRefused(t *testing.T, server *testservers.Server) {
	t.Helper()
	require.ErrorIs(t, connect(server.Addr()), syscall.ECONNREFUSED)
}

func connect(address string) error {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	return conn.Close()
}
