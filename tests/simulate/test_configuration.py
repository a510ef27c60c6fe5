"""What a configuration says of its requests."""

from __future__ import annotations

from dataclasses import replace

from random_configurations import random_configurations

from hispec_sim.acceptance.replay import ReplaySource


def test_contexts_end_where_recorded_texts_do() -> None:
    """Whoever asks for more tokens than were recorded is not refused for contexts that no request reaches."""
    for configuration in random_configurations(0, 1, 6, 20):
        asked = replace(configuration, output_tokens=500, requests=2)
        longest = 500
        if isinstance(asked.outcomes, ReplaySource):
            longest = max(asked.outcomes.output_tokens(request) for request in range(2))
            assert longest < 500
        assert asked.contexts == range(asked.prompt_tokens, asked.prompt_tokens + longest + 1)
