package ambient

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// The messages of citadel.proto and zds.proto (both Apache-2.0, of istio/api and
// istio/ztunnel) that the driver and its stand-in need. They are few and small,
// so they are read and written here by their field numbers.

// Raw is an encoded message that grpc passes on as it is.
type Raw []byte

// RawCodec is grpc's codec for Raw.
type RawCodec struct{}

// Marshal implements encoding.Codec.
func (RawCodec) Marshal(v any) ([]byte, error) {
	r, ok := v.(*Raw)
	if !ok {
		return nil, fmt.Errorf("encode %T: only encoded messages are sent", v)
	}
	return *r, nil
}

// Unmarshal implements encoding.Codec.
func (RawCodec) Unmarshal(data []byte, v any) error {
	r, ok := v.(*Raw)
	if !ok {
		return fmt.Errorf("decode into %T: only encoded messages are received", v)
	}
	*r = append((*r)[:0], data...)
	return nil
}

// Name implements encoding.Codec.
func (RawCodec) Name() string { return "proto" }

// Fields of IstioCertificateRequest and IstioCertificateResponse.
const (
	csrField      protowire.Number = 1
	validityField protowire.Number = 3
	chainField    protowire.Number = 1
)

// Fields of the ZDS messages.
const (
	helloVersion protowire.Number = 1 // ZdsHello

	requestAdd      protowire.Number = 1 // WorkloadRequest
	requestDel      protowire.Number = 2
	requestSnapshot protowire.Number = 3

	addUID      protowire.Number = 1 // AddWorkload
	addInfo     protowire.Number = 2
	delUID      protowire.Number = 2 // DelWorkload
	infoName    protowire.Number = 1 // WorkloadInfo
	infoSpace   protowire.Number = 2
	infoAccount protowire.Number = 3

	responseAck protowire.Number = 1 // WorkloadResponse
	ackError    protowire.Number = 1 // Ack
)

var errCut = errors.New("the message is cut short or no protobuf")

// eachField calls f with every field of a message: text of a length-delimited
// one, number of a varint; others are passed over.
func eachField(b []byte, f func(n protowire.Number, text []byte, number uint64)) error {
	for len(b) > 0 {
		n, kind, size := protowire.ConsumeTag(b)
		if size < 0 {
			return errCut
		}
		b = b[size:]
		var text []byte
		var number uint64
		switch kind {
		case protowire.BytesType:
			text, size = protowire.ConsumeBytes(b)
		case protowire.VarintType:
			number, size = protowire.ConsumeVarint(b)
		default:
			size = protowire.ConsumeFieldValue(n, kind, b)
		}
		if size < 0 {
			return errCut
		}
		if kind == protowire.BytesType || kind == protowire.VarintType {
			f(n, text, number)
		}
		b = b[size:]
	}
	return nil
}

func appendBytes(b []byte, n protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), value)
}

func appendText(b []byte, n protowire.Number, value string) []byte {
	return appendBytes(b, n, []byte(value))
}

func appendNumber(b []byte, n protowire.Number, value uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), value)
}

// signingRequest is an IstioCertificateRequest.
type signingRequest struct {
	csr     string
	seconds uint64
}

func parseSigningRequest(b []byte) (r signingRequest, err error) {
	err = eachField(b, func(n protowire.Number, text []byte, number uint64) {
		switch n {
		case csrField:
			r.csr = string(text)
		case validityField:
			r.seconds = number
		}
	})
	return r, err
}

// EncodeSigningRequest is what a node proxy sends: a PEM certificate request and
// the seconds that the certificate is to hold.
func EncodeSigningRequest(csr []byte, seconds uint64) Raw {
	return appendNumber(appendBytes(nil, csrField, csr), validityField, seconds)
}

// appendChain is an IstioCertificateResponse: leaf first, root last.
func appendChain(b []byte, chain ...[]byte) []byte {
	for _, c := range chain {
		b = appendBytes(b, chainField, c)
	}
	return b
}

// DecodeChain returns the PEM certificates of an answer, leaf first, root last.
func DecodeChain(b Raw) (chain [][]byte, err error) {
	err = eachField(b, func(n protowire.Number, text []byte, _ uint64) {
		if n == chainField {
			chain = append(chain, text)
		}
	})
	if err == nil && len(chain) < 2 {
		err = fmt.Errorf("a chain of %d certificates has no root", len(chain))
	}
	return chain, err
}

// ZDSRequest is one message of the agent to a node proxy.
type ZDSRequest struct {
	Add          *ZDSPod
	Del          string // UID
	SnapshotSent bool
}

// ZDSPod is the pod that an add brings.
type ZDSPod struct{ UID, Name, Namespace, ServiceAccount string }

// DecodeZDSRequest reads a message of the agent.
func DecodeZDSRequest(b []byte) (r ZDSRequest, err error) {
	var inner error
	err = eachField(b, func(n protowire.Number, text []byte, _ uint64) {
		switch n {
		case requestAdd:
			r.Add = new(ZDSPod)
			inner = errors.Join(inner, r.Add.decode(text))
		case requestDel:
			inner = errors.Join(inner, eachField(text, func(n protowire.Number, uid []byte, _ uint64) {
				if n == delUID {
					r.Del = string(uid)
				}
			}))
		case requestSnapshot:
			r.SnapshotSent = true
		}
	})
	return r, errors.Join(err, inner)
}

func (p *ZDSPod) decode(b []byte) error {
	var inner error
	err := eachField(b, func(n protowire.Number, text []byte, _ uint64) {
		switch n {
		case addUID:
			p.UID = string(text)
		case addInfo:
			inner = eachField(text, func(n protowire.Number, text []byte, _ uint64) {
				switch n {
				case infoName:
					p.Name = string(text)
				case infoSpace:
					p.Namespace = string(text)
				case infoAccount:
					p.ServiceAccount = string(text)
				}
			})
		}
	})
	return errors.Join(err, inner)
}

// EncodeHello is what a node proxy says first.
func EncodeHello() []byte { return appendNumber(nil, helloVersion, zdsVersion) }

// EncodeAck acknowledges a message: done, or why not.
func EncodeAck(err error) []byte {
	var ack []byte
	if err != nil {
		ack = appendText(nil, ackError, err.Error())
	}
	return appendBytes(nil, responseAck, ack)
}
