"""Training: loss, optimizer, the pure step, its parallel compilation, checkpoints, the loop."""
