"""How far prices are off at short and at long contexts: prompt by prompt, with the outcomes of the real runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from hispec_sim.simulate.jitter import mean_factor
from hispec_sim.validate.budget import Recorded
from hispec_sim.validate.design import Configuration
from hispec_sim.validate.observation import Observation
from hispec_sim.validate.prediction import Predictor

BINS = 5
"""So many ranges of contexts, with as many decoded prompts in each."""


def errors_by_prompt(predictor: Predictor, configuration: Configuration, parts: Sequence[Observation]) -> pd.DataFrame:
    """For a configuration of one sequence, whose parts are prompts: the mean `context` in tokens while each was
    decoded, and the `error` of its tokens_per_s when its own outcomes are priced."""
    outcomes = [part.verified[0] for part in parts]
    pricer = predictor.pricer(configuration)
    logs = predictor.run(configuration, lambda request: Recorded(outcomes[request]), pricer, None, len(parts))
    requests = [request for log in logs for request in sorted(log.requests, key=lambda request: request.index)]
    late = mean_factor(predictor.cost.profile.spread())
    priced_ms = late * np.array([request.end_ms - request.start_ms for request in requests])
    prompt_tokens = np.array(predictor.prompt_tokens[: len(parts)])
    return pd.DataFrame(
        {
            "context": prompt_tokens + configuration.max_new_tokens / 2,
            "error": np.array([part.decode_ms for part in parts]) / priced_ms - 1,
        }
    )


def by_context(errors: pd.DataFrame) -> list[dict[str, float]]:
    """For ranges of contexts, `from` and `to`, in tokens: how many `prompts` were decoded there, and the `median` size
    and mean (`bias`) of their errors."""
    if not len(errors):
        return []
    inner_ends = np.unique(np.quantile(errors["context"], np.arange(1, BINS) / BINS))
    ranges = np.searchsorted(inner_ends, errors["context"])
    return [
        {
            "from": float(each["context"].min()),
            "to": float(each["context"].max()),
            "prompts": len(each),
            "median": float(each["error"].abs().median()),
            "bias": float(each["error"].mean()),
        }
        for _, each in errors.groupby(ranges)
    ]
