"""Dead letters: work items that the broker gave back, kept for a week to be read, replayed and requeued."""
