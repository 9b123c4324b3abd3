package kafkabroker

import (
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/waybillmq/waybill/reliable"
)

// errShared is what a record's neighbours get: see [reliable.ErrConnectionLost] in the package's description.
var errShared = fmt.Errorf("the broker refused a batch for one of its records: %w", reliable.ErrConnectionLost)

// verdict says what franz-go's word about a record means. It gives the same word to all that waits for the same partition,
// so what can be true of one record only counts only for one that was alone in its batch.
func verdict(err error, alone bool) (reliable.Outcome, error) {
	switch {
	case err == nil:
		return reliable.Acked, nil
	case isAny(err, kerr.MessageTooLarge, kerr.InvalidRecord, kerr.InvalidTimestamp, kerr.RecordListTooLarge):
		if alone {
			return reliable.Rejected, err
		}
		return reliable.Unknown, fmt.Errorf("%w: %w", errShared, err)
	case isAny(err, kerr.UnknownTopicOrPartition, kerr.UnknownTopicID, kerr.InvalidTopicException,
		kerr.TopicAuthorizationFailed, kerr.ClusterAuthorizationFailed):
		return reliable.Returned, err
	case isAny(err, kerr.PolicyViolation, kerr.CorruptMessage, kerr.UnsupportedForMessageFormat,
		kerr.UnsupportedCompressionType, kerr.InvalidRequiredAcks):
		return reliable.Nacked, err
	case errors.Is(err, kgo.ErrRecordTimeout):
		return reliable.Unknown, fmt.Errorf("no verdict within the confirm timeout: %w", err)
	case errors.Is(err, kgo.ErrClientClosed):
		return reliable.Unknown, fmt.Errorf("closed before the verdict: %w", err)
	}
	return reliable.Unknown, err
}

func isAny(err error, candidates ...error) bool {
	for _, candidate := range candidates {
		if errors.Is(err, candidate) {
			return true
		}
	}
	return false
}
