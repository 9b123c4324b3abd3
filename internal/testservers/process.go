//go:build linux

package testservers

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

// process is a running program and what it started in turn.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{}
	err    error // how it exited; read after exited
}

// spawn starts cmd in a process group of its own. The kernel kills it when this process dies, however it dies.
func spawn(cmd *exec.Cmd, as account) (*process, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL, Credential: as.credential}
	p := &process{cmd: cmd, exited: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel's promise is bound to the thread that starts the program, so that thread must live as long.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.exited)
		}
	}()
	return p, <-started
}

func (p *process) signal(signal syscall.Signal) {
	_ = p.cmd.Process.Signal(signal) // fails when it has exited, which is what its caller waits for
}

// pause stops the program and all that it started. Parents come before their children, and it looks again until nothing
// new is found, so that nobody is left to start another.
func (p *process) pause() (stopped []int) {
	seen := map[int]bool{}
	for {
		fresh := 0
		for _, pid := range p.tree() {
			if !seen[pid] {
				seen[pid] = true
				fresh++
				stopped = append(stopped, pid)
				_ = syscall.Kill(pid, syscall.SIGSTOP) // it may have exited
			}
		}
		if fresh == 0 {
			return stopped
		}
	}
}

func (p *process) resume() {
	for _, pid := range p.tree() {
		_ = syscall.Kill(pid, syscall.SIGCONT) // it may have exited
	}
}

// kill ends the program and all that it started, and returns when they are gone: a leftover would hold the data. It
// stops them first, lest a parent start a child anew or say goodbye to a client.
func (p *process) kill() {
	select {
	case <-p.exited:
		return // its process id may be another's by now
	default:
	}
	pids := p.pause()
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may have exited
	}
	<-p.exited
	for _, pid := range pids {
		for parentOf(pid) != 0 {
			time.Sleep(time.Millisecond) // somebody else's child: nothing tells us when it ends
		}
	}
}

// tree lists the program and all that it started, parents first. Process groups would not do: PostgreSQL's workers each
// have one of their own.
func (p *process) tree() []int {
	children := map[int][]int{}
	entries, _ := filepath.Glob("/proc/[0-9]*") // the pattern is well formed
	for _, entry := range entries {
		pid, err := strconv.Atoi(filepath.Base(entry))
		if err == nil {
			parent := parentOf(pid)
			children[parent] = append(children[parent], pid)
		}
	}
	tree := []int{p.cmd.Process.Pid}
	for i := 0; i < len(tree); i++ {
		tree = append(tree, children[tree[i]]...)
	}
	return tree
}

// parentOf is 0 for a process that is gone, or dead and not yet reaped.
func parentOf(pid int) int {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The name, in parentheses, may hold anything; after it come the state and the parent.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 2 || string(fields[0]) == "Z" || string(fields[0]) == "X" {
		return 0
	}
	parent, _ := strconv.Atoi(string(fields[1])) // the kernel wrote it
	return parent
}

// account is who a server runs as. Servers refuse to run as root; anybody else runs them as themselves.
type account struct{ credential *syscall.Credential }

func findAccount(t T, name string) account {
	t.Helper()
	if os.Geteuid() != 0 {
		return account{}
	}
	entry, err := user.Lookup(name)
	if err != nil {
		t.Fatalf("testservers: %v: run `make services-up`", err)
	}
	uid, uidErr := strconv.ParseUint(entry.Uid, 10, 32)
	gid, gidErr := strconv.ParseUint(entry.Gid, 10, 32)
	if uidErr != nil || gidErr != nil {
		t.Fatalf("testservers: account %s has no numbers", name)
	}
	return account{&syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
}

// own gives a file to the account.
func (a account) own(t T, file string) {
	t.Helper()
	if a.credential == nil {
		return
	}
	if err := os.Chown(file, int(a.credential.Uid), int(a.credential.Gid)); err != nil {
		t.Fatalf("testservers: %v", err)
	}
}
