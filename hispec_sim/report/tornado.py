"""The tornado: how far each uncertain input moves the advantage of what is recommended, and where advice flips."""

from __future__ import annotations

from textwrap import wrap

import matplotlib as mpl
from matplotlib.figure import Figure

from hispec_sim.report.figures import COLOURS, STYLE
from hispec_sim.report.recommendation import TITLES, InputEffect, Recommendation
from hispec_sim.report.sweep_figures import Picture

MAX_ROWS = 16
LABEL_WIDTH = 34
LEAST = 1e-3
"""An advantage that changes by less is not drawn."""
LOW, HIGH = COLOURS[4], COLOURS[0]


def tornado(answer: Recommendation) -> Picture | None:
    """Two bars per input, one for each end of its range, the widest input on top; None where none does anything."""
    effects = [effect for effect in answer.inputs if _matters(effect)][:MAX_ROWS][::-1]
    if not effects:
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 1.5 + 0.5 * len(effects)), layout="constrained")
        axes = figure.add_subplot()
        base = effects[0].advantage
        tips: dict[str, str] = {}
        labelled: set[str] = set()
        for row, effect in enumerate(effects):
            for end, at, up, colour, name in (
                (effect.low, effect.advantage_at_low, 0.18, LOW, "at the low end of its range"),
                (effect.high, effect.advantage_at_high, -0.18, HIGH, "at the high end"),
            ):
                place = row + up
                (bar,) = axes.barh(place, at - base, left=base, height=0.34, color=colour, label=_once(name, labelled))
                bar.set_gid(f"tornado_{len(tips)}")
                tips[f"tornado_{len(tips)}"] = f"{effect.name} = {end:.3g} {effect.unit}\nadvantage {at:.2f}x"
                if abs(at - base) > LEAST:
                    right = at > base
                    axes.annotate(
                        f"{end:.3g}",
                        (at, place),
                        xytext=(4 if right else -4, 0),
                        textcoords="offset points",
                        ha="left" if right else "right",
                        va="center",
                        fontsize=8,
                    )
            for at, advice in _flips(effect):
                x, place = _between(effect, at), row + (0.18 if at < effect.value else -0.18)
                (mark,) = axes.plot(
                    x, place, "D", color=COLOURS[5], markersize=6, label=_once("advice flips", labelled)
                )
                mark.set_gid(f"tornado_{len(tips)}")
                tips[f"tornado_{len(tips)}"] = f"{effect.name} = {at:.3g} {effect.unit}\nthen {TITLES[advice]}"
        axes.axvline(base, color="black", linewidth=1)
        axes.axvline(1.0, color="black", linewidth=0.8, linestyle=":")
        axes.set_yticks(range(len(effects)), [_label(effect) for effect in effects])
        axes.margins(x=0.12)
        axes.set_xlabel(
            f"speed of {TITLES[answer.advice]} over the best other kind\n(at a bar's end: the input's value)"
        )
        figure.legend(frameon=False, ncols=3, loc="outside upper center", fontsize=9)
    return Picture("tornado", "What each uncertain input, changed alone, does to the advantage", figure, tips)


def _label(effect: InputEffect) -> str:
    flips = ", ".join(f"{at:.3g}" for at, _ in _flips(effect))
    name = "\n".join(wrap(effect.name, LABEL_WIDTH))
    return f"{name} ({effect.value:.3g}{'; flips at ' + flips if flips else ''})"


def _matters(effect: InputEffect) -> bool:
    moved = max(abs(at - effect.advantage) for at in (effect.advantage_at_low, effect.advantage_at_high))
    return moved > LEAST or bool(_flips(effect))


def _flips(effect: InputEffect) -> list[tuple[float, str]]:
    pairs = ((effect.flips_below, effect.advice_below), (effect.flips_above, effect.advice_above))
    return [(at, advice) for at, advice in pairs if at is not None and advice is not None]


def _between(effect: InputEffect, value: float) -> float:
    """Where a value lies on the way from the base to the end of the bar."""
    end, at = (effect.low, effect.advantage_at_low) if value < effect.value else (effect.high, effect.advantage_at_high)
    share = (value - effect.value) / (end - effect.value)
    return effect.advantage + share * (at - effect.advantage)


def _once(name: str, labelled: set[str]) -> str | None:
    if name in labelled:
        return None
    labelled.add(name)
    return name
