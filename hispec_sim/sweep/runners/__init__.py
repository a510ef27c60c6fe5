"""Where chunks of a sweep are evaluated: processes of this machine, or a Ray cluster. Figures are the same."""
