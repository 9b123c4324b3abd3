package middleware

import (
	"errors"
	"fmt"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/reliable"
)

// AddHandler adds a handler to router, with the preset around it, and one for each retry topic, which hands the message to
// the same h. They share subscriber, which must consume as a member of the preset's group, and publisher, whose messages
// are published before the original is acked.
//
// A preset takes a topic once: two handlers would find each other's messages in its retry topics. The topics must exist,
// see [Preset.Topics].
func (p *Preset) AddHandler(router *message.Router, name, topic string, subscriber message.Subscriber,
	publishTopic string, publisher message.Publisher, h message.HandlerFunc,
) error {
	if err := p.claimTopic(name, topic); err != nil {
		return err
	}
	h = p.middleware(h, publishTopic, publisher) // once: breaker and throttle are the handler's, not a topic's
	router.AddHandler(name, topic, subscriber, publishTopic, publisher, h)
	for i, retry := range p.RetryTopics(topic) {
		router.AddHandler(retryName(name, i), retry, subscriber, publishTopic, publisher, h)
	}
	return nil
}

// AddConsumerHandler is [Preset.AddHandler] for a handler that produces nothing.
func (p *Preset) AddConsumerHandler(router *message.Router, name, topic string, subscriber message.Subscriber,
	h message.NoPublishHandlerFunc,
) error {
	if err := p.claimTopic(name, topic); err != nil {
		return err
	}
	wrapped := p.Middleware(func(msg *message.Message) ([]*message.Message, error) { return nil, h(msg) })
	consume := func(msg *message.Message) error {
		_, err := wrapped(msg)
		return err
	}
	router.AddConsumerHandler(name, topic, subscriber, consume)
	for i, retry := range p.RetryTopics(topic) {
		router.AddConsumerHandler(retryName(name, i), retry, subscriber, consume)
	}
	return nil
}

func retryName(name string, i int) string { return fmt.Sprintf("%s.retry.%d", name, i+1) }

func (p *Preset) claimTopic(name, topic string) error {
	var problems []error
	if topic == "" {
		problems = append(problems, reliable.Invalid("topic", "is empty"))
	}
	if topic == p.poisonTopic {
		problems = append(problems, reliable.Invalid("topic", "%q is the poison topic: what fails there would go round for ever", topic))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.handled[topic] {
		problems = append(problems, reliable.Invalid("topic", "%q has a handler already; make a preset for each", topic))
	}
	if err := errors.Join(problems...); err != nil {
		return fmt.Errorf("middleware: add handler %q: %w", name, err)
	}
	p.handled[topic] = true
	for _, retry := range p.RetryTopics(topic) {
		p.origins[retry] = topic
	}
	return nil
}

// origin is the topic that topic is a retry topic of, or topic itself.
func (p *Preset) origin(topic string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if origin, known := p.origins[topic]; known {
		return origin
	}
	return topic
}
