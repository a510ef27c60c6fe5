"""The recommendation in words."""

from __future__ import annotations

from hispec_sim.report.recommendation import TITLES, Choice, InputEffect, Margin, Recommendation, levels_text, load_text


def sentence(answer: Recommendation) -> str:
    """What to run, by what margin, and what would change it: two sentences."""
    best = answer.recommended
    others = [choice for choice in answer.choices if choice.role not in (answer.advice, "paper_default")]
    if answer.advice == "autoregressive":
        what = f"Do not speculate: autoregressive decoding gives {_speed(answer, best)}"
    elif answer.advice == "single_layer" and any(choice.role == "hierarchy" for choice in others):
        what = f"One level is enough: {levels_text(best.levels)} gives {_speed(answer, best)}"
    else:
        what = f"Run {best.policy} ({levels_text(best.levels)}): {_speed(answer, best)}"
    against = " and ".join(f"{_against(o.recommended_over_this)} {_best(answer, o)}" for o in reversed(others))
    return f"{what}, {against}. {_flips(answer)}"


def margin_text(margin: Margin) -> str:
    """`1.12x (1.10 to 1.14)`, and one digit more where it is close."""
    digits = 3 if abs(margin.ratio - 1) < 0.1 else 2
    return f"{margin.ratio:.{digits}f}x ({margin.low:.{digits}f} to {margin.high:.{digits}f})"


def _against(margin: Margin) -> str:
    if margin.low < 1 < margin.high:
        return f"not distinguishable, at {margin_text(margin)} the speed, from"
    return f"{margin_text(margin)} the speed of"


def nearest_flip(effect: InputEffect) -> tuple[float, float, str] | None:
    """Share of the way to its range's end, value and new advice of an input's nearest flip."""
    ends = [
        (abs(at - effect.value) / abs(end - effect.value), at, str(advice))
        for at, end, advice in (
            (effect.flips_below, effect.low, effect.advice_below),
            (effect.flips_above, effect.high, effect.advice_above),
        )
        if at is not None and advice is not None
    ]
    return min(ends, default=None)


def value_text(effect: InputEffect, value: float) -> str:
    """A value with its unit."""
    return f"{value:.3g} {effect.unit}".strip()


def _best(answer: Recommendation, choice: Choice) -> str:
    load = load_text(answer, choice)
    if choice.role == "autoregressive":
        return TITLES[choice.role] + load.replace(",", " at", 1)
    return f"the best {TITLES[choice.role].removeprefix('a ')} ({levels_text(choice.levels)}{load})"


def _speed(answer: Recommendation, choice: Choice) -> str:
    if answer.objective == "tpot_ms":
        return f"{choice.tpot_ms.median:.3g} ms per output token"
    at = f" at concurrency {choice.concurrency}" if choice.concurrency > 1 else ""
    return f"{choice.tokens_per_s.median:.4g} tokens/s{at}"


def _flips(answer: Recommendation) -> str:
    flips = [(nearest_flip(effect), effect) for effect in answer.inputs]
    known = sorted(((flip, effect) for flip, effect in flips if flip is not None), key=lambda pair: pair[0])
    if not answer.inputs:
        return "No input was varied."
    if not known:
        return f"None of {len(answer.inputs)} uncertain inputs, varied alone within its range, changes that."
    (_, at, advice), effect = known[0]
    others = f"; {len(known)} of {len(answer.inputs)} inputs can change the advice" if len(known) > 1 else ""
    return (
        f"It would be {TITLES[advice]} if {effect.name} were {value_text(effect, at)} instead of "
        f"{value_text(effect, effect.value)}{others}."
    )
