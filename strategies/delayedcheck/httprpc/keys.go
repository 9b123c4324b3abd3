package httprpc

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"strings"

	"github.com/waybillmq/waybill/reliable"
)

// MinSecretBytes is how long a secret is at least: as long as the hash, below which HMAC-SHA256 loses strength (RFC 2104,
// section 3).
const MinSecretBytes = sha256.Size

const maxKeyIDBytes = 64

// Key is what both sides of the RPC know. It formats and logs as its ID alone.
type Key struct {
	// ID tells which key a request is signed with; it travels. Letters, digits, '.', '_' and '-', at most 64 bytes.
	ID string
	// Secret has at least [MinSecretBytes]; take it from a random source, not from a person.
	Secret []byte
}

// ParseKey returns the key that text has as "ID:SECRET", the secret in hexadecimal: the form for an environment variable.
// Its errors are [reliable.ErrInvalid] and tell nothing of the secret.
func ParseKey(text string) (Key, error) {
	id, secret, found := strings.Cut(text, ":")
	if !found {
		return Key{}, reliable.Invalid("key", "is not ID:SECRET, the secret in hexadecimal")
	}
	raw, err := hex.DecodeString(secret)
	if err != nil {
		return Key{}, reliable.Invalid("key "+printableID(id), "has a secret that is not hexadecimal; make one with: openssl rand -hex 32")
	}
	key := Key{ID: id, Secret: raw}
	return key, key.check()
}

// String returns the key's ID.
func (k Key) String() string { return "key " + printableID(k.ID) }

// GoString returns the key's ID.
func (k Key) GoString() string { return k.String() }

// LogValue returns the key's ID.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

func (k Key) check() error {
	if k.ID == "" || len(k.ID) > maxKeyIDBytes || printableID(k.ID) != k.ID {
		return reliable.Invalid("key", "has an ID that is not 1 to %d letters, digits, '.', '_' and '-'", maxKeyIDBytes)
	}
	if len(k.Secret) < MinSecretBytes {
		return reliable.Invalid(k.String(), "has a secret of %d bytes, at least %d are needed; make one with: openssl rand -hex 32",
			len(k.Secret), MinSecretBytes)
	}
	return nil
}

// printableID keeps what was given as an ID by mistake, a secret perhaps, out of errors and logs.
func printableID(id string) string {
	if len(id) > maxKeyIDBytes {
		return "(too long)"
	}
	for _, r := range id {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '_', r == '-':
		default:
			return "(invalid)"
		}
	}
	return id
}

// keyring finds keys by ID.
type keyring map[string]Key

func newKeyring(keys []Key) (keyring, error) {
	if len(keys) == 0 {
		return nil, reliable.Invalid("keys", "are missing; give at least one")
	}
	ring := make(keyring, len(keys))
	for _, key := range keys {
		if err := key.check(); err != nil {
			return nil, err
		}
		if _, twice := ring[key.ID]; twice {
			return nil, reliable.Invalid("keys", "hold %s twice", key)
		}
		ring[key.ID] = key
	}
	return ring, nil
}

const (
	headerKey       = "Waybill-Key"
	headerTime      = "Waybill-Time"
	headerNonce     = "Waybill-Nonce"
	headerSignature = "Waybill-Signature"

	schemeRequest  = "waybill-request-1"
	schemeResponse = "waybill-response-1"
)

// sign returns the signature of lines and body in hexadecimal. No line may hold a newline, or two requests would have one
// signature; headers and escaped paths cannot.
func (k Key) sign(body []byte, lines ...string) string {
	mac := hmac.New(sha256.New, k.Secret)
	mac.Write([]byte(strings.Join(lines, "\n") + "\n"))
	mac.Write(body)
	return hex.EncodeToString(mac.Sum(nil))
}

func (k Key) signed(signature string, body []byte, lines ...string) bool {
	return hmac.Equal([]byte(signature), []byte(k.sign(body, lines...)))
}
