// Package servers is how the examples find the servers of `make services-up`, or others, and stop and start them.
package servers

import (
	"context"
	"fmt"
	"os"
	"os/exec"
)

// Setting returns what a variable of the environment says, or the fallback.
func Setting(variable, fallback string) string {
	if value := os.Getenv(variable); value != "" {
		return value
	}
	return fallback
}

// Command returns a function that runs a shell command and waits for it.
func Command(line string) func(context.Context) error {
	return func(ctx context.Context) error {
		output, err := exec.CommandContext(ctx, "sh", "-c", line).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s: %w: %s", line, err, output)
		}
		return nil
	}
}
