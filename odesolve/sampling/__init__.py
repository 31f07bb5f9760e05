"""What lies between a model with a plan and its samples: the start, the executor, chunks and
callbacks."""
