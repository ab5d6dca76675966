package scenario

import (
	"cmp"
	"os"
	"slices"
	"strconv"
)

// otherCPU is the CPU time of all processes, threads of the kernel among them,
// by pid and start. What began and ended between two looks is in neither.
type otherCPU map[string]OtherUse

// maxOthers bounds what a report names; less than minOther of a core is not worth it.
const (
	maxOthers = 3
	minOther  = 0.002
)

// readOthers leaves out the processes in but.
func readOthers(but map[int]bool) otherCPU {
	dirs, _ := os.ReadDir("/proc")
	others := otherCPU{}
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil || but[pid] {
			continue
		}
		stat, err := statFields(pid)
		if err != nil {
			continue // has ended meanwhile
		}
		started := stat[19]
		others[d.Name()+" "+started] = OtherUse{processName(pid), timesOf(stat).total()}
	}
	return others
}

// since are those that used the most, most first.
func (now otherCPU) since(before otherCPU, seconds float64) []OtherUse {
	var used []OtherUse
	for key, u := range now {
		u.CPUSeconds = round(u.CPUSeconds-before[key].CPUSeconds, 2)
		if _, ok := before[key]; ok && u.CPUSeconds >= minOther*seconds {
			used = append(used, u)
		}
	}
	slices.SortFunc(used, func(a, b OtherUse) int {
		return cmp.Or(-cmp.Compare(a.CPUSeconds, b.CPUSeconds), cmp.Compare(a.Name, b.Name))
	})
	return used[:min(len(used), maxOthers)]
}
