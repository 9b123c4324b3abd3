//go:build services

package kafkabroker_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillmq/waybill/adapters/kafkabroker"
	"github.com/waybillmq/waybill/internal/testservers"
	"github.com/waybillmq/waybill/reliable"
)

// On real Kafka, with an account that may do nothing at first.
func TestPublish_withoutPermissionIsReturnedUntilItIsGranted(t *testing.T) {
	server := testservers.StartKafka(t,
		"authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer", "super.users=User:ANONYMOUS")
	server.CreateTopic("orders", 1)
	admin, err := kgo.NewClient(kgo.SeedBrokers(server.Brokers()...))
	require.NoError(t, err)
	t.Cleanup(admin.Close)
	allow := func(operation kmsg.ACLOperation) {
		t.Helper()
		rule := kmsg.NewCreateACLsRequestCreation()
		rule.ResourceType, rule.ResourceName, rule.ResourcePatternType = kmsg.ACLResourceTypeTopic, "orders", kmsg.ACLResourcePatternTypeLiteral
		rule.Principal, rule.Host = "User:waybill", "*"
		rule.Operation, rule.PermissionType = operation, kmsg.ACLPermissionTypeAllow
		request := kmsg.NewPtrCreateACLsRequest()
		request.Creations = append(request.Creations, rule)
		response, err := request.RequestWith(t.Context(), admin)
		require.NoError(t, err)
		require.NoError(t, kerr.ErrorForCode(response.Results[0].ErrorCode))
	}
	b := open(t, []string{server.LoginAddr()}, kafkabroker.WithScramSHA512("waybill", "waybill"))
	batch := attempts("orders", 5)
	requireOutcome(t, reliable.Returned, publish(t, b, batch...)...)
	allow(kmsg.ACLOperationDescribe) // it sees the topic now, and is told that it may not write
	requireOutcome(t, reliable.Returned, publish(t, b, batch...)...)
	allow(kmsg.ACLOperationWrite)
	requireOutcome(t, reliable.Acked, publish(t, b, batch...)...)
}
