package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// ready is what a process says when it works.
const ready = "ready"

// process is a child with a role.
type process struct {
	role string
	cmd  *exec.Cmd
	said chan string // closed at its end
}

// start starts a process and waits until it says that it works.
func start(ctx context.Context, s stage, role string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self) //nolint:noctx // it is ended by end or kill, in the order that matters
	if cmd.Env, err = s.environment(role); err != nil {
		return nil, err
	}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{role: role, cmd: cmd, said: make(chan string, 1000)}
	go p.listen(pipe)
	if err := p.await(ctx, ready); err != nil {
		return nil, p.kill(err)
	}
	return p, nil
}

func (p *process) listen(pipe io.Reader) {
	defer close(p.said)
	for lines := bufio.NewScanner(pipe); lines.Scan(); {
		p.said <- lines.Text()
	}
}

// await waits until the process says something that begins with what.
func (p *process) await(ctx context.Context, what string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		select {
		case line, alive := <-p.said:
			if !alive {
				return fmt.Errorf("%s ended before it said %q", p.role, what)
			}
			if strings.HasPrefix(line, what) {
				return nil
			}
		case <-ctx.Done():
			return fmt.Errorf("%s did not say %q: %w", p.role, what, ctx.Err())
		}
	}
}

// kill ends the process as a power failure would, and returns cause, or what kept it from that.
func (p *process) kill(cause error) error {
	if err := p.cmd.Process.Kill(); err != nil {
		return err
	}
	p.drain()
	_ = p.cmd.Wait() // says that it was killed
	return cause
}

// end asks the process to stop, and waits for it.
func (p *process) end() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop %s: %w", p.role, err)
	}
	p.drain()
	if err := p.cmd.Wait(); err != nil {
		return fmt.Errorf("stop %s: %w", p.role, err)
	}
	return nil
}

func (p *process) drain() {
	for range p.said { // until it is closed
	}
}
