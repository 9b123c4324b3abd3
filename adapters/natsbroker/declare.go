package natsbroker

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/nats-io/nats.go/jetstream"
)

// Declare makes the streams of [WithStream] that do not exist, and adds the subjects that existing ones lack. Nothing
// else of a stream that exists is changed: it belongs to whoever runs the server. It connects, and waits for that until
// ctx ends. Several processes may call it at once, and again.
func (b *Broker) Declare(ctx context.Context) error {
	return b.EnsureStream(ctx, b.streams...)
}

// EnsureStream does what [Broker.Declare] does for the streams given.
func (b *Broker) EnsureStream(ctx context.Context, streams ...jetstream.StreamConfig) error {
	for _, config := range streams {
		err := b.withStream(ctx, func(ctx context.Context, js jetstream.JetStream) error { return ensure(ctx, js, config) })
		if err != nil {
			return fmt.Errorf("natsbroker: declare stream %q: %w", config.Name, err)
		}
	}
	return nil
}

func ensure(ctx context.Context, js jetstream.JetStream, config jetstream.StreamConfig) error {
	stream, err := js.Stream(ctx, config.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		_, err = js.CreateStream(ctx, config)
		if !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			return err
		}
		stream, err = js.Stream(ctx, config.Name) // another process was faster, with another configuration
	}
	if err != nil {
		return err
	}
	existing := stream.CachedInfo().Config
	missing := slices.DeleteFunc(slices.Clone(config.Subjects), func(subject string) bool {
		return slices.Contains(existing.Subjects, subject)
	})
	if len(missing) == 0 {
		return nil
	}
	existing.Subjects = append(existing.Subjects, missing...)
	_, err = js.UpdateStream(ctx, existing)
	return err
}
