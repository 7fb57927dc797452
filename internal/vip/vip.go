// Package vip is what the load-balancer controller and the nodes' service proxies agree on: which node answers for a Service's address.
package vip

// NodeAnnotation names, at a Service, the node that answers for its load-balancer address.
const NodeAnnotation = "keelson.dev/load-balancer-node"
