"""Real measurements of real networks. Needs torch."""
