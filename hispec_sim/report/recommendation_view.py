"""A recommendation as the terminal shows it."""

from __future__ import annotations

import json

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hispec_sim.report.recommendation import TITLES, Recommendation, choice_text

SOURCE = "the paper's default: HiSpec, arXiv 2510.01336"


def recommendation_view(answer: Recommendation) -> RenderableType:
    """The sentence, what was compared, what would flip it, and the rest that a reader must know."""
    parts: list[RenderableType] = [Text(answer.sentence, style="bold"), _choices(answer)]
    if answer.inputs:
        parts.append(_inputs(answer))
    if answer.speculative_config is not None:
        parts.append(Text(f"vLLM: --speculative-config '{json.dumps(answer.speculative_config)}'"))
    parts += [Text(f"note: {note}") for note in answer.notes]
    return Group(*parts)


def _choices(answer: Recommendation) -> Table:
    table = Table(title="the best of each kind, simulated again", title_justify="left", caption_justify="left")
    table.caption = (
        f"{answer.repetitions} repetitions on the event-driven engine, all with the same luck, by which no point was "
        f"chosen; recommended: bold; {SOURCE}"
    )
    for heading in ("kind", "configuration", "tokens/s", "ms/token", "recommended\nis faster by", "points\ncompared"):
        table.add_column(heading, justify="left" if heading in ("kind", "configuration") else "right")
    for choice in answer.choices:
        margin, speed = choice.recommended_over_this, choice.tokens_per_s
        own = choice.role == answer.advice
        table.add_row(
            TITLES[choice.role],
            choice_text(answer, choice),
            f"{speed.median:.1f} [{speed.low:.1f}, {speed.high:.1f}]",
            f"{choice.tpot_ms.median:.2f}",
            "-" if own else f"{margin.ratio:.3f}x [{margin.low:.3f}, {margin.high:.3f}]",
            f"{choice.n_points:,}",
            style="bold" if own else "",
        )
    return table


def _inputs(answer: Recommendation) -> Table:
    table = Table(title="what would change the advice", title_justify="left", caption_justify="left")
    table.caption = (
        "advantage: the recommended configuration's speed over the best of another kind, with one input at the low, "
        "then the high end of its range; ·: no flip within it"
    )
    for heading in ("input", "value", "range", "advantage", "flips at", "then"):
        table.add_column(heading, justify="left" if heading in ("input", "then") else "right")
    for effect in answer.inputs:
        pairs = ((effect.flips_below, effect.advice_below), (effect.flips_above, effect.advice_above))
        flips = [(at, TITLES[advice]) for at, advice in pairs if at is not None and advice is not None]
        table.add_row(
            effect.name,
            f"{effect.value:.3g} {effect.unit}",
            f"{effect.low:.3g} .. {effect.high:.3g}",
            f"{effect.advantage_at_low:.2f} .. {effect.advantage_at_high:.2f}",
            "\n".join(f"{at:.3g}" for at, _ in flips) or "·",
            "\n".join(advice for _, advice in flips),
        )
    return table
