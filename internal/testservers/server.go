//go:build linux

package testservers

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

const (
	// patience bounds a start and a clean stop. It is long because the machine may be busy.
	patience = 6 * time.Minute
	// lookAgain is the time between two looks at something that gives no signal.
	lookAgain = 20 * time.Millisecond
)

// starting holds a token for each server of this process that is starting: more of them at a time take a small machine longer
// than one after the other.
var starting = make(chan struct{}, 2)

// login is the account and the password on every server. It guards nothing.
const login = "waybill"

// T is what a server needs of its test; a command that plays with servers has one of its own.
type T interface {
	Helper()
	Cleanup(what func())
	Failed() bool
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	// Fatalf does not return.
	Fatalf(format string, args ...any)
}

// Server is what all servers have in common.
type Server struct {
	t          T
	name       string // for people
	place      *place
	account    account
	command    func() *exec.Cmd
	stopSignal syscall.Signal
	answers    func(context.Context) error // nil when a client would be served
	running    *process                    // nil while down
}

// newServer makes a server's place; launch starts it when its files are there.
func newServer(t T, name, accountName string, ports int) *Server {
	t.Helper()
	s := &Server{t: t, name: name, account: findAccount(t, accountName), place: newPlace(t, ports)}
	s.account.own(t, s.place.dir)
	return s
}

func (s *Server) launch() {
	s.t.Helper()
	s.t.Cleanup(func() {
		if s.running != nil {
			s.running.kill()
		}
		if s.t.Failed() {
			s.t.Logf("testservers: the last words of %s:\n%s", s.name, s.lastWords())
		}
	})
	s.Start()
}

// Addr is the host and port that clients connect to. It stays the same when the server is started again.
func (s *Server) Addr() string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.place.ports[0]))
}

// Start starts a server that is down, on its old ports and data, and returns when it answers.
func (s *Server) Start() {
	s.t.Helper()
	if s.running != nil {
		s.t.Fatalf("testservers: start %s: it is running", s.name)
	}
	log, err := os.OpenFile(s.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		s.t.Fatalf("testservers: start %s: %v", s.name, err)
	}
	defer log.Close()
	cmd := s.command()
	cmd.Stdout, cmd.Stderr = log, log
	starting <- struct{}{}
	defer func() { <-starting }()
	if s.running, err = spawn(cmd, s.account); err != nil {
		s.t.Fatalf("testservers: start %s: %v", s.name, err)
	}
	s.awaitAnswer()
}

func (s *Server) awaitAnswer() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		err := s.answers(ctx)
		if err == nil {
			return
		}
		select {
		case <-time.After(lookAgain):
		case <-s.running.exited:
			s.running = nil
			s.t.Fatalf("testservers: start %s: it exited:\n%s", s.name, s.lastWords())
		case <-ctx.Done():
			s.t.Fatalf("testservers: start %s: no answer within %v: %v", s.name, patience, err)
		}
	}
}

// Kill ends all processes of the server with SIGKILL, as a crash of its machine would, except that what it wrote reaches
// the disk. It may be paused.
func (s *Server) Kill() {
	s.t.Helper()
	s.mustRun("kill")
	s.running.kill()
	s.running = nil
}

// Stop shuts the server down in good order and returns when it is down. Clients are disconnected.
func (s *Server) Stop() {
	s.t.Helper()
	s.mustRun("stop")
	s.running.resume()
	s.running.signal(s.stopSignal)
	select {
	case <-s.running.exited:
		s.running = nil
	case <-time.After(patience):
		s.t.Fatalf("testservers: stop %s: still running after %v", s.name, patience)
	}
}

// Pause stops all processes of the server with SIGSTOP: connections stay open, new ones are taken by the kernel, and
// nothing answers.
func (s *Server) Pause() {
	s.t.Helper()
	s.mustRun("pause")
	s.running.pause()
}

// Resume continues a paused server. It is harmless when it is not paused.
func (s *Server) Resume() {
	s.t.Helper()
	s.mustRun("resume")
	s.running.resume()
}

func (s *Server) mustRun(verb string) {
	s.t.Helper()
	if s.running == nil {
		s.t.Fatalf("testservers: %s %s: it is down", verb, s.name)
	}
}

// file is the path of one of the server's own files.
func (s *Server) file(name string) string { return filepath.Join(s.place.dir, name) }

func (s *Server) logFile() string { return s.file("log") }

func (s *Server) lastWords() []byte {
	words, _ := os.ReadFile(s.logFile()) // without a log there are none
	lines := bytes.SplitAfter(words, []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-20):], nil)
}

// write makes one of the server's own files.
func (s *Server) write(name, content string) {
	s.t.Helper()
	if err := os.WriteFile(s.file(name), []byte(content), 0o644); err != nil {
		s.t.Fatalf("testservers: prepare %s: %v", s.name, err)
	}
	s.account.own(s.t, s.file(name))
}

// mkdir makes one of the server's own directories.
func (s *Server) mkdir(name string) string {
	s.t.Helper()
	if err := os.Mkdir(s.file(name), 0o700); err != nil {
		s.t.Fatalf("testservers: prepare %s: %v", s.name, err)
	}
	s.account.own(s.t, s.file(name))
	return s.file(name)
}

// run runs a program beside the server, as the server's account, and returns what it printed.
func (s *Server) run(ctx context.Context, cmd *exec.Cmd) (string, error) {
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	p, err := spawn(cmd, s.account)
	if err != nil {
		return "", err
	}
	select {
	case <-p.exited:
	case <-ctx.Done():
		p.kill()
		return output.String(), ctx.Err()
	}
	if p.err != nil {
		return output.String(), fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), p.err, output.Bytes())
	}
	return output.String(), nil
}

// prepare runs a program that makes the server's data directory.
func (s *Server) prepare(cmd *exec.Cmd) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := s.run(ctx, cmd); err != nil {
		s.t.Fatalf("testservers: prepare %s: %v", s.name, err)
	}
}

// program finds a program that the server's Debian package brings; the last of the patterns' matches is taken, since
// where several versions are installed the newest sorts last.
func program(t T, patterns ...string) string {
	t.Helper()
	for _, pattern := range patterns {
		if found, _ := filepath.Glob(pattern); len(found) > 0 { // the patterns are well formed
			return found[len(found)-1]
		}
	}
	t.Fatalf("testservers: no %s on this machine: run `make services-up` as root", patterns[0])
	return ""
}
