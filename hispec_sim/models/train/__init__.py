"""Training the project's own small early-exit network from scratch, on a CPU, with the LayerSkip recipe."""
