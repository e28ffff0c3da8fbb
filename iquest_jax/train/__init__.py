"""Training: state, loss, optimizer, step, loop, metrics."""
