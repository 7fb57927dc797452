package queue

// Gated returns how many of the unschedulable pods a PreEnqueue plugin keeps out of the queue.
func (q *Queue) Gated() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 0
	for _, p := range q.unschedulable {
		if p.GatedBy != "" {
			n++
		}
	}
	return n
}
