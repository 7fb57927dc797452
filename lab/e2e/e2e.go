// Package e2e proves a whole cluster from outside, as its users meet it: scripts of kubectl and keelson commands below
// testdata/script, each in a namespace of its own, and Go tests for what a script cannot say. Its tests have the build tag e2e.
//
//	kubectl   what kubectl does; run with the machine's kubectl and with the one built in, side by side
//	nodes     the same for what changes nodes: one at a time
//	cluster   what runs inside the cluster; side by side
//	alone     what stops the cluster or parts of it: one at a time
package e2e
