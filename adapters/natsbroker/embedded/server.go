// Package embedded runs a NATS server with JetStream inside the process.
//
// What it stores is on disk in a folder and outlives the process: a server started on the same folder has it again. As
// NATS does by default, an acked message is in the operating system's page cache, and synced every two minutes: it
// survives the end of the process, even by kill -9, but may not survive a loss of power. [WithSyncAlways] syncs before
// each ack, at about a twentieth of the rate.
//
// A server listens to no port unless [WithListener] says so: clients of the same process are connected through memory.
// Only one server at a time may use a folder.
package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/waybillmq/waybill/reliable"
)

// Option configures a Server.
type Option func(*Server)

// WithSyncAlways has every message synced to disk before it is acked; default off.
func WithSyncAlways() Option { return func(s *Server) { s.opts.SyncAlways = true } }

// WithListener has the server listen on the loopback interface, without authentication: whatever runs on this machine
// can use it. Port 0 takes a free one, which a restart keeps; default: no listener.
func WithListener(port int) Option {
	return func(s *Server) {
		s.opts.DontListen, s.opts.Host, s.opts.Port = false, "127.0.0.1", port
		if port == 0 {
			s.opts.Port = server.RANDOM_PORT
		}
	}
}

// WithMaxPayload sets the largest message in bytes, headers included; default 1 MiB. The server's authors advise
// against more than 8 MiB.
func WithMaxPayload(bytes int) Option {
	return func(s *Server) { s.opts.MaxPayload = int32(min(bytes, 64<<20)) } //nolint:gosec // 64 MiB is the server's most
}

// WithLogger sets where the server's notices, warnings and errors go; default nowhere.
func WithLogger(logger *slog.Logger) Option { return func(s *Server) { s.logger = logger } }

// WithOptions changes anything else about the server: accounts, users, limits. That it handles signals or listens
// elsewhere is then the caller's wish.
func WithOptions(change func(*server.Options)) Option { return func(s *Server) { change(&s.opts) } }

// Server is a NATS server in this process. Its methods may be called by several goroutines.
type Server struct {
	opts   server.Options
	logger *slog.Logger

	life sync.Mutex // one Stop or Restart at a time

	mu      sync.Mutex
	current *server.Server // nil while it is down
	addr    string
}

// StartServer starts a server that keeps its data in dir, which is made if it does not exist, and waits until it is
// ready or ctx ends. Whoever starts a server stops it, after closing what is connected to it.
func StartServer(ctx context.Context, dir string, opts ...Option) (*Server, error) {
	if dir == "" {
		return nil, fmt.Errorf("embedded: start: %w", reliable.Invalid("dir", "is empty; name the folder to keep the data in"))
	}
	s := &Server{
		logger: slog.New(slog.DiscardHandler),
		opts: server.Options{
			ServerName: "waybill",
			DontListen: true,
			JetStream:  true,
			StoreDir:   dir,
			NoSigs:     true,
		},
	}
	for _, opt := range opts {
		opt(s)
	}
	if s.logger == nil {
		return nil, fmt.Errorf("embedded: start: %w", reliable.Invalid("WithLogger", "is nil; leave the option out to log nothing"))
	}
	if err := s.start(ctx); err != nil {
		return nil, fmt.Errorf("embedded: start: %w", err)
	}
	return s, nil
}

func (s *Server) start(ctx context.Context) error {
	opts := s.opts // the server writes to its options
	running, err := server.NewServer(&opts)
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	running.SetLoggerV2(&complaints{logger: s.logger, fatal: failed}, false, false, false)
	starting := make(chan struct{})
	go func() {
		defer close(starting)
		running.Start()
	}()
	if err := await(ctx, running, failed); err != nil {
		halt(running)
		<-starting
		return err
	}
	s.mu.Lock()
	if address, ok := running.Addr().(*net.TCPAddr); ok && !opts.DontListen {
		s.addr, s.opts.Port = "nats://"+address.String(), address.Port
	}
	s.current = running
	s.mu.Unlock()
	return nil
}

// await returns nil once the server is ready, and otherwise why it is not.
func await(ctx context.Context, running *server.Server, failed <-chan error) error {
	const look = 5 * time.Millisecond // ReadyForConnections watches neither a context nor the server's own failure
	for !running.ReadyForConnections(look) {
		select {
		case err := <-failed:
			return err
		case <-ctx.Done():
			return ctx.Err()
		default:
		}
	}
	return ctx.Err()
}

func halt(running *server.Server) {
	running.Shutdown()
	running.WaitForShutdown()
}

// Stop shuts the server down and waits until its data is closed. Clients see an outage: they lose their connections,
// and get them back after Restart. Stopping again does nothing.
func (s *Server) Stop() {
	s.life.Lock()
	defer s.life.Unlock()
	s.stop()
}

func (s *Server) stop() {
	s.mu.Lock()
	running := s.current
	s.current = nil
	s.mu.Unlock()
	if running != nil {
		halt(running)
	}
}

// Restart stops the server if it runs, and starts it on the same folder, with the same options and address.
func (s *Server) Restart(ctx context.Context) error {
	s.life.Lock()
	defer s.life.Unlock()
	s.stop()
	if err := s.start(ctx); err != nil {
		return fmt.Errorf("embedded: restart: %w", err)
	}
	return nil
}

// ClientOption makes a client of this process connect to the server through memory. It always leads to the instance
// that runs now, so that clients find the server again after a restart.
func (s *Server) ClientOption() nats.Option { return nats.InProcessServer(s) }

// InProcessConn implements nats.InProcessConnProvider.
func (s *Server) InProcessConn() (net.Conn, error) {
	s.mu.Lock()
	running := s.current
	s.mu.Unlock()
	if running == nil {
		return nil, errors.New("embedded: the server is stopped")
	}
	return running.InProcessConn()
}

// URL is the address that [WithListener] made the server listen on; empty without it.
func (s *Server) URL() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addr
}
