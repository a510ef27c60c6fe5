"""Numbers that papers have published, each simulated with this project's engine and the shipped profiles."""
