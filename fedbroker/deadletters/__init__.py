"""Dead letters: work items that the broker dead-lettered, kept for a week to be read, replayed and requeued."""
