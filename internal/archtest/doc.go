// Package archtest holds the rules of the house that a test can check: who may
// import whom, one package doc, file sizes, names, package state, what tests
// must not do, goroutine leaks. internal/DESIGN.md says what the rooms are for.
//
// A rule is a function from the parsed tree to findings; its tests are the
// small trees in testdata/<rule>.txt, whose lines say what they want to be
// found. Nothing is type-checked: a rule judges names and shapes, and where
// that is too strict for a good reason, the reason goes into exceptions.go.
//
// # Concurrency
//
// Rules only read the tree.
//
// # Non-goals
//
// What golangci-lint finds is in .golangci.yml. Generated code is not judged.
package archtest
