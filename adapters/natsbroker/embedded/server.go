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
	"net"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/waybillmq/waybill/reliable"
)

// Option configures a Server.
type Option func(*server.Options)

// WithSyncAlways has every message synced to disk before it is acked; default off.
func WithSyncAlways() Option { return func(o *server.Options) { o.SyncAlways = true } }

// WithListener has the server listen on the loopback interface, without authentication: whatever runs on this machine
// can use it. Port 0 takes a free one, which a restart keeps; default: no listener.
func WithListener(port int) Option {
	return func(o *server.Options) {
		o.DontListen, o.Host, o.Port = false, "127.0.0.1", port
		if port == 0 {
			o.Port = server.RANDOM_PORT
		}
	}
}

// WithMaxPayload sets the largest message in bytes, headers included; default 1 MiB. The server's authors advise against
// more than 8 MiB.
func WithMaxPayload(bytes int) Option {
	return func(o *server.Options) { o.MaxPayload = int32(min(bytes, 64<<20)) } //nolint:gosec // 64 MiB is the server's most
}

// WithOptions changes anything else about the server, just before it starts: accounts, users, limits. What makes it
// handle signals or listen elsewhere is the caller's responsibility.
func WithOptions(change func(*server.Options)) Option { return change }

// Server is a NATS server in this process. Its methods may be called by several goroutines.
type Server struct {
	opts server.Options
	addr string

	life sync.Mutex // one Stop or Restart at a time

	mu      sync.Mutex
	current *server.Server // nil while it is down
}

// StartServer starts a server that keeps its data in dir, which is made if it does not exist, and waits until it is ready
// or ctx ends. Whoever starts a server stops it, after closing what is connected to it.
func StartServer(ctx context.Context, dir string, opts ...Option) (*Server, error) {
	if dir == "" {
		return nil, fmt.Errorf("embedded: start: %w", reliable.Invalid("dir", "is empty; name the folder to keep the data in"))
	}
	s := &Server{opts: server.Options{
		ServerName: "waybill",
		DontListen: true,
		JetStream:  true,
		StoreDir:   dir,
		NoLog:      true,
		NoSigs:     true,
	}}
	for _, opt := range opts {
		opt(&s.opts)
	}
	if err := s.start(ctx); err != nil {
		return nil, fmt.Errorf("embedded: start: %w", err)
	}
	return s, nil
}

func (s *Server) start(ctx context.Context) error {
	opts := s.opts // the server writes to its options
	if opts.SyncAlways {
		opts.SyncInterval = 2 * time.Minute // an explicit one, or the server replaces both
	}
	running, err := server.NewServer(&opts)
	if err != nil {
		return err
	}
	go running.Start()
	ready := make(chan bool, 1)
	go func() { ready <- running.ReadyForConnections(readyTimeout) }()
	select {
	case ok := <-ready:
		if !ok || !running.JetStreamEnabled() {
			halt(running)
			return errors.New("the server did not get ready: is its folder writable, and used by no other server?")
		}
	case <-ctx.Done():
		halt(running)
		return ctx.Err()
	}
	if address, ok := running.Addr().(*net.TCPAddr); ok && !opts.DontListen {
		s.addr, s.opts.Port = "nats://"+address.String(), address.Port
	}
	s.mu.Lock()
	s.current = running
	s.mu.Unlock()
	return nil
}

const readyTimeout = 30 * time.Second

func halt(running *server.Server) {
	running.Shutdown()
	running.WaitForShutdown()
}

// Stop shuts the server down and waits until its data is closed. Clients see an outage: they lose their connections, and
// get them back after Restart. Stopping again does nothing.
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
func (s *Server) URL() string { return s.addr }
