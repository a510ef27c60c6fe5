"""The tornado: how far each uncertain input moves the advantage of what is recommended, and where advice flips."""

from __future__ import annotations

import matplotlib as mpl
from matplotlib.figure import Figure

from hispec_sim.report.figures import COLOURS, STYLE
from hispec_sim.report.recommendation import TITLES, InputEffect, Recommendation
from hispec_sim.report.sweep_figures import Picture

MAX_ROWS = 16
LOW, HIGH = COLOURS[4], COLOURS[0]


def tornado(answer: Recommendation) -> Picture | None:
    """One bar per input, the widest on top; None where no input was varied."""
    effects = answer.inputs[:MAX_ROWS][::-1]
    if not effects:
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 1.5 + 0.42 * len(effects)), layout="constrained")
        axes = figure.add_subplot()
        base = effects[0].advantage
        tips: dict[str, str] = {}
        labelled: set[str] = set()
        for row, effect in enumerate(effects):
            for end, at, colour, name in (
                (effect.low, effect.advantage_at_low, LOW, "at the low end of its range"),
                (effect.high, effect.advantage_at_high, HIGH, "at the high end"),
            ):
                (bar,) = axes.barh(row, at - base, left=base, height=0.55, color=colour, label=_once(name, labelled))
                bar.set_gid(f"tornado_{len(tips)}")
                tips[f"tornado_{len(tips)}"] = f"{effect.name} = {end:.3g} {effect.unit}\nadvantage {at:.2f}x"
                if abs(at - base) > 1e-3:
                    right = at > base
                    axes.annotate(
                        f"{end:.3g}",
                        (at, row),
                        xytext=(4 if right else -4, 0),
                        textcoords="offset points",
                        ha="left" if right else "right",
                        va="center",
                        fontsize=8,
                    )
            for at, advice in _flips(effect):
                x = _between(effect, at)
                (mark,) = axes.plot(x, row, "D", color=COLOURS[5], markersize=6, label=_once("advice flips", labelled))
                mark.set_gid(f"tornado_{len(tips)}")
                tips[f"tornado_{len(tips)}"] = f"{effect.name} = {at:.3g} {effect.unit}\nthen {TITLES[advice]}"
        axes.axvline(base, color="black", linewidth=1)
        axes.axvline(1.0, color="black", linewidth=0.8, linestyle=":")
        axes.set_yticks(range(len(effects)), [_label(effect) for effect in effects])
        axes.margins(x=0.12)
        axes.set_xlabel(
            f"speed of {TITLES[answer.advice]} over the best other kind (at a bar's end: the input's value)"
        )
        figure.legend(frameon=False, ncols=3, loc="outside upper center", fontsize=9)
    return Picture("tornado", "What each uncertain input, changed alone, does to the advantage", figure, tips)


def _label(effect: InputEffect) -> str:
    flips = ", ".join(f"{at:.3g}" for at, _ in _flips(effect))
    return f"{effect.name} ({effect.value:.3g}{'; flips at ' + flips if flips else ''})"


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
