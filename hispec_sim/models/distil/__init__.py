"""Training exit heads on a frozen network: teacher text that it writes itself, and its own first choices to learn."""
