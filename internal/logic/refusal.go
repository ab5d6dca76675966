package logic

import "errors"

// Reason says in one stable word why a request was refused; the catalogue for
// callers is api/push/errors.md.
type Reason string

// The reasons of Refusal.
const (
	NoTargets      Reason = "no_targets"
	TooManyTargets Reason = "too_many_targets"
	BadTarget      Reason = "bad_target"
	TooLarge       Reason = "too_large"
	NotSupported   Reason = "not_supported"
	BadLimit       Reason = "bad_limit"
	BadField       Reason = "bad_field"
	BadFlags       Reason = "bad_flags"
	KeyReused      Reason = "key_reused"
	NoArchive      Reason = "no_archive"
	UnknownPush    Reason = "unknown_push"
	UnknownMessage Reason = "unknown_message"
	Forbidden      Reason = "forbidden"
)

// Refusal is a request that is wrong in itself: trying again does not help.
type Refusal struct {
	Reason  Reason
	Message string // what was wrong and what is allowed
}

func (r *Refusal) Error() string { return string(r.Reason) + ": " + r.Message }

// ErrDraining answers pushes while this logic stops; another one takes them.
var ErrDraining = errors.New("logic: draining, this node is stopping")

// ErrLogAway answers pushes that could not be made durable in time. Some of
// the targets may get the message all the same.
var ErrLogAway = errors.New("logic: the message log did not accept the push in time")
