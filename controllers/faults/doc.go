// Package faults proves what the workload controllers promise, whatever happens: its tests run the controller manager against a real
// API server, with watch events that come late, calls that fail, answers that get lost, people who write at the same time and an end
// of the process at any write, and check the promises at every revision of the watch history. There is no product code in it.
package faults
