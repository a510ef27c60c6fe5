"""What a forward does, as far as its parts' times depend on it."""

from __future__ import annotations

from dataclasses import dataclass

from hispec_sim.errors import InputError


@dataclass(frozen=True, slots=True)
class ForwardShape:
    """Layers (first_layer, last_layer] for `tokens` query tokens of `batch` sequences together, `logits` rows of which
    are read out. Raises InputError if sequences have no tokens, or more rows are read out than there are."""

    first_layer: int
    last_layer: int
    batch: int
    tokens: int
    logits: int

    def __post_init__(self) -> None:
        if self.batch < 1 or self.tokens < self.batch or not 0 <= self.logits <= self.tokens:
            raise InputError(
                f"a forward needs batch >= 1, tokens >= batch and logits from 0 to tokens; "
                f"got batch {self.batch}, tokens {self.tokens}, logits {self.logits}"
            )

    @property
    def n_layers(self) -> int:
        """How many layers run."""
        return self.last_layer - self.first_layer

    @property
    def query_tokens(self) -> float:
        """Of a sequence, in the mean."""
        return self.tokens / self.batch
