// Package plugins lists the scheduler's plugins in the order in which they run.
package plugins

import (
	"keelson.dev/scheduler/plugins/defaultbinder"
	"keelson.dev/scheduler/plugins/defaultpreemption"
	"keelson.dev/scheduler/plugins/dynamicresources"
	"keelson.dev/scheduler/plugins/imagelocality"
	"keelson.dev/scheduler/plugins/interpodaffinity"
	"keelson.dev/scheduler/plugins/nodeaffinity"
	"keelson.dev/scheduler/plugins/nodedeclaredfeatures"
	"keelson.dev/scheduler/plugins/nodename"
	"keelson.dev/scheduler/plugins/nodeports"
	"keelson.dev/scheduler/plugins/noderesources"
	"keelson.dev/scheduler/plugins/nodeunschedulable"
	"keelson.dev/scheduler/plugins/nodevolumelimits"
	"keelson.dev/scheduler/plugins/podtopologyspread"
	"keelson.dev/scheduler/plugins/prioritysort"
	"keelson.dev/scheduler/plugins/schedulinggates"
	"keelson.dev/scheduler/plugins/tainttoleration"
	"keelson.dev/scheduler/plugins/volumebinding"
	"keelson.dev/scheduler/plugins/volumerestrictions"
	"keelson.dev/scheduler/plugins/volumezone"
	"keelson.dev/scheduler/profile"
)

// Default returns the plugins of a profile without configuration. The order is upstream's: cheap filters first.
func Default() []profile.Plugin {
	return []profile.Plugin{
		{Name: schedulinggates.Name, New: schedulinggates.New},
		{Name: prioritysort.Name, New: prioritysort.New},
		{Name: nodename.Name, New: nodename.New},
		{Name: nodeunschedulable.Name, New: nodeunschedulable.New},
		{Name: tainttoleration.Name, New: tainttoleration.New, Weight: 3},
		{Name: nodeaffinity.Name, New: nodeaffinity.New, Weight: 2},
		{Name: nodeports.Name, New: nodeports.New},
		{Name: noderesources.FitName, New: noderesources.NewFit, Weight: 1},
		{Name: volumerestrictions.Name, New: volumerestrictions.New},
		{Name: nodevolumelimits.Name, New: nodevolumelimits.New},
		{Name: volumebinding.Name, New: volumebinding.New},
		{Name: volumezone.Name, New: volumezone.New},
		{Name: podtopologyspread.Name, New: podtopologyspread.New, Weight: 2},
		{Name: interpodaffinity.Name, New: interpodaffinity.New, Weight: 2},
		{Name: dynamicresources.Name, New: dynamicresources.New, Weight: 2},
		{Name: defaultpreemption.Name, New: defaultpreemption.New},
		{Name: noderesources.BalancedName, New: noderesources.NewBalanced, Weight: 1},
		{Name: imagelocality.Name, New: imagelocality.New, Weight: 1},
		{Name: defaultbinder.Name, New: defaultbinder.New},
		{Name: nodedeclaredfeatures.Name, New: nodedeclaredfeatures.New},
	}
}
