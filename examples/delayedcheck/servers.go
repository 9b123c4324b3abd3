package main

import (
	"context"
	"errors"
	"net/url"
	"strings"

	"github.com/rabbitmq/amqp091-go"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillmq/waybill/examples/internal/backends"
)

// makeDatabases makes the run's databases, if they are on a server; drop removes them, and whatever connections are left to
// them.
func makeDatabases(ctx context.Context, p pair, s stage) (drop func() error, err error) {
	if p.database == "" {
		return func() error { return nil }, nil
	}
	server, err := backends.Stores.Open(ctx, p.database)
	if err != nil {
		return nil, err
	}
	force := ""
	if strings.HasPrefix(p.database, "postgres") {
		force = " WITH (FORCE)"
	}
	var made []string
	drop = func() (err error) {
		for _, name := range made {
			_, dropped := backends.Exec(context.WithoutCancel(ctx), server, "DROP DATABASE "+name+force)
			err = errors.Join(err, dropped)
		}
		return errors.Join(err, server.Close())
	}
	roles := []string{shopRole, shippingRole, callbackRole}
	if p.broker == p.database {
		roles = append(roles, brokerRole)
	}
	for _, role := range roles {
		name := s.Run + "_" + role
		if _, err := backends.Exec(ctx, server, "CREATE DATABASE "+name); err != nil {
			return nil, errors.Join(err, drop())
		}
		made = append(made, name)
	}
	return drop, nil
}

// clearBroker removes what the run made on a broker that it shares with others. Tables go with their database.
func clearBroker(ctx context.Context, s stage) error {
	u, err := url.Parse(s.Broker)
	if err != nil {
		return err
	}
	switch u.Scheme {
	case "amqp", "amqps":
		return clearRabbitMQ(s)
	case "kafka":
		return clearKafka(ctx, s, strings.Split(u.Host, ","))
	}
	return nil
}

func clearRabbitMQ(s stage) error {
	server, _, _ := strings.Cut(s.Broker, "?")
	conn, err := amqp091.Dial(server)
	if err != nil {
		return err
	}
	channel, err := conn.Channel()
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	// Deleting what is not there is no error.
	for _, topic := range s.topics() {
		for _, role := range []string{shippingRole, callbackRole} {
			_, deleted := channel.QueueDelete(topic+"_"+s.group(role), false, false, false)
			err = errors.Join(err, deleted)
		}
		err = errors.Join(err, channel.ExchangeDelete(topic, false, false))
	}
	return errors.Join(err, conn.Close())
}

func clearKafka(ctx context.Context, s stage, addresses []string) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(addresses...))
	if err != nil {
		return err
	}
	defer client.Close()
	topics := kmsg.NewPtrDeleteTopicsRequest()
	topics.TimeoutMillis = 10_000
	topics.TopicNames = s.topics()
	for _, name := range s.topics() {
		topic := kmsg.NewDeleteTopicsRequestTopic()
		topic.Topic = &name
		topics.Topics = append(topics.Topics, topic)
	}
	groups := kmsg.NewPtrDeleteGroupsRequest()
	groups.Groups = []string{s.group(shippingRole), s.group(callbackRole)} // those of members that were killed go by themselves
	if _, err := groups.RequestWith(ctx, client); err != nil {
		return err
	}
	answer, err := topics.RequestWith(ctx, client)
	if err != nil {
		return err
	}
	for _, topic := range answer.Topics {
		if refused := kerr.ErrorForCode(topic.ErrorCode); !errors.Is(refused, kerr.UnknownTopicOrPartition) {
			err = errors.Join(err, refused)
		}
	}
	return err
}
