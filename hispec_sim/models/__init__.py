"""Real networks: a compact Llama-architecture transformer that runs span by span. Needs torch."""
