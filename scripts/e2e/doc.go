// Package e2e tests Perseid as its operators run it: the daemons as separate
// processes against a real Redis, a real Kafka and a real bilibili/discovery,
// with clients that share no code with the product but the frame codec. It
// holds tests only; its folder oracle judges what they saw of stored messages.
package e2e
