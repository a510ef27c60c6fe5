"""A run's results as the terminal shows them."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hispec_sim.report.summary import Summary

SHOWN_OPS = ("layer", "layer_linear", "attention", "lm_head")
"""Ops that decoding spends its time in; summary.json has the error of every op."""


def summary_view(summary: Summary) -> RenderableType:
    """The comparison, what the assumed numbers change, and where latency came from."""
    parts: list[RenderableType] = [_policies(summary)]
    if any(policy.tokens_per_s_predicted or policy.tokens_per_target_pass_predicted for policy in summary.policies):
        parts.append(_predicted(summary))
    if summary.sensitivity:
        parts.append(_sensitivity(summary))
    parts.append(_latency(summary))
    parts += [Text(f"note: {note}") for note in summary.notes]
    return Group(*parts)


def _policies(summary: Summary) -> Table:
    table = Table(title=summary.scenario_name, title_justify="left", caption_justify="left")
    table.caption = (
        "tokens/s: median and 95 % interval over repetitions; AR: autoregressive; 1-layer: fastest two-level policy. "
        "Last three columns: per level, draft first."
    )
    for heading in ("policy", "tokens/s", "x AR", "x 1-layer", "tokens per\ntarget pass"):
        table.add_column(heading, justify="left" if heading == "policy" else "right")
    table.add_column("matched per\ndrafted", justify="right")
    table.add_column("time share", justify="right")
    table.add_column("forwards\nper round", justify="right")
    fastest = max(policy.tokens_per_s.median for policy in summary.policies)
    for policy in summary.policies:
        speed, single = policy.tokens_per_s, policy.speedup_vs_best_single_layer
        table.add_row(
            policy.name,
            f"{speed.median:.1f} [{speed.low:.1f}, {speed.high:.1f}]",
            f"{policy.speedup_vs_autoregressive:.2f}",
            "-" if single is None else f"{single:.2f}",
            f"{policy.tokens_per_target_pass:.2f}",
            _per_level(policy.matched_per_drafted, "{:.2f}"),
            _per_level(policy.time_share, "{:.0%}"),
            _per_level(policy.forwards_per_round, "{:.1f}"),
            style="bold" if speed.median == fastest else "",
        )
    return table


def _predicted(summary: Summary) -> Table:
    table = Table(title="how sure that is", title_justify="left", caption_justify="left")
    table.caption = "95 % intervals with the errors of the trace (other prompts) and of the profile; -: these tell none"
    for heading in ("policy", "tokens/s", "tokens per target pass"):
        table.add_column(heading, justify="left" if heading == "policy" else "right")
    for policy in summary.policies:
        rate, per_pass = policy.tokens_per_s_predicted, policy.tokens_per_target_pass_predicted
        table.add_row(
            policy.name,
            f"{rate[0]:.1f} to {rate[1]:.1f}" if rate else "-",
            f"{per_pass[0]:.2f} to {per_pass[1]:.2f}" if per_pass else "-",
        )
    return table


def _sensitivity(summary: Summary) -> Table:
    table = Table(title="what the assumed numbers decide", title_justify="left", caption_justify="left")
    table.caption = (
        "speedup over autoregressive with one parameter at the low, then the high end of its range; ·: untouched"
    )
    table.add_column("parameter")
    table.add_column("range", justify="right")
    policies = [policy.name for policy in summary.policies if len(policy.levels) > 1]
    for name in policies:
        table.add_column(name, justify="right")
    table.add_column("fastest")
    for low, high in zip(summary.sensitivity[::2], summary.sensitivity[1::2], strict=True):
        ends = [_ends(low.speedup_vs_autoregressive[name], high.speedup_vs_autoregressive[name]) for name in policies]
        fastest = low.best_policy if low.best_policy == high.best_policy else f"{low.best_policy} .. {high.best_policy}"
        table.add_row(low.parameter, f"{low.value:g} .. {high.value:g}", *ends, fastest)
    return table


def _latency(summary: Summary) -> Table:
    table = Table(title="latency", title_justify="left", caption_justify="left")
    table.caption = "interpolation error: grid points predicted from their neighbours, median / 95 % quantile per op"
    for heading in ("network", "TP", "source", "date", "interpolation error"):
        table.add_column(heading)
    for network in summary.networks:
        errors = ", ".join(
            f"{error.op} {error.median:.1%} / {error.p95:.1%}"
            for error in network.interpolation_error
            if error.op in SHOWN_OPS
        )
        table.add_row(
            network.name, str(network.tensor_parallel), network.profile, str(network.provenance.get("date", "")), errors
        )
    return table


def _ends(low: float, high: float) -> str:
    return "·" if low == high else f"{low:.2f} .. {high:.2f}"


def _per_level(values: Mapping[str, float], form: str) -> str:
    return " / ".join(form.format(value) for value in values.values()) or "-"
