package reliable

import (
	"encoding/json"

	"github.com/ThreeDotsLabs/watermill/message"
)

// processedVersion is the version of the format that this package writes.
const processedVersion = 1

type processedWire struct {
	Version   int               `json:"v"`
	Processed []processedOnWire `json:"processed"`
}

type processedOnWire struct {
	ID    ID     `json:"id"`
	Group string `json:"group"`
}

// ProcessedMessage returns the message that tells the callback service of confirms, 1 to [MaxProcessed] of them; each must
// pass [Processed.Check]. Its payload is JSON: {"v":1,"processed":[{"id":"...","group":"..."}]}.
func ProcessedMessage(confirms ...Processed) (*message.Message, error) {
	wire := processedWire{Version: processedVersion, Processed: make([]processedOnWire, len(confirms))}
	for i, confirm := range confirms {
		wire.Processed[i] = processedOnWire(confirm)
	}
	if err := checkProcessed(confirms); err != nil {
		return nil, err
	}
	payload, err := json.Marshal(wire)
	if err != nil {
		return nil, err
	}
	return message.NewMessage(string(NewID()), payload), nil
}

// ProcessedOf returns the confirms that a message tells of. What is no such message, or one of a version that this program
// does not know, is an error that is [ErrInvalid].
func ProcessedOf(msg *message.Message) ([]Processed, error) {
	var wire processedWire
	if err := json.Unmarshal(msg.Payload, &wire); err != nil {
		return nil, Invalid("processed confirm", "cannot be read; was something else sent to its topic?")
	}
	if wire.Version != processedVersion {
		return nil, Invalid("processed confirm", "is of version %d, this program reads version %d", wire.Version, processedVersion)
	}
	confirms := make([]Processed, len(wire.Processed))
	for i, confirm := range wire.Processed {
		confirms[i] = Processed(confirm)
	}
	return confirms, checkProcessed(confirms)
}

func checkProcessed(confirms []Processed) error {
	if len(confirms) == 0 || len(confirms) > MaxProcessed {
		return Invalid("processed confirms", "are %d, must be 1 to %d", len(confirms), MaxProcessed)
	}
	for _, confirm := range confirms {
		if err := confirm.Check(); err != nil {
			return err
		}
	}
	return nil
}
