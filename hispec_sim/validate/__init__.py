"""Validation: the executor against the simulator, on the same configurations."""
