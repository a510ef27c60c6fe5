"""`hispec check`: what others have published, simulated here and compared."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

import hispec_sim
from hispec_sim.cli.check_hierarchy import hierarchy_command
from hispec_sim.cli.progress import progress
from hispec_sim.published.bench import Bench
from hispec_sim.published.check import Check, Findings, pick_groups, run_group
from hispec_sim.published.checks import all_groups
from hispec_sim.published.fidelity import open_table, overall_table, quantity_table, reading_table
from hispec_sim.published.results import check_table, role_of, summary
from hispec_sim.report.folder import check_free, move_in
from hispec_sim.report.published_figures import draw_published

check_app = typer.Typer(help="Compare the simulator with what has been published and executed.", no_args_is_help=True)
_READINGS_SHOWN = 5
_ROLES = {
    "stated": "stated beforehand",
    "best": "best fit: found by looking",
    "stated best": "stated beforehand, and the best fit",
}


check_app.command("hierarchy")(hierarchy_command)


@check_app.command("paper")
def paper_command(
    profiles: Annotated[Path, typer.Option(help="Folder of the H100's latency profiles.")] = Path("profiles/h100_sxm"),
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("results/paper_checks"),
    force: Annotated[bool, typer.Option("--force", help="Replace results that are already there.")] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(help=f"Only this group; repeatable: {', '.join(group.key for group in all_groups())}."),
    ] = None,
    tokens: Annotated[int, typer.Option(min=100, help="Tokens that each simulated run commits.")] = 4000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all runs.")] = 0,
) -> None:
    """Simulate the published numbers of HiSpec, LayerSkip, Leviathan et al. and PipeSpec, and compare.

    Misses are findings: they stay in the table, explained, and the exit status is 0. Writes paper_checks.json,
    paper_checks.csv (every reading), figures, and, with the extra `report`, paper_checks.html (errors, ranking and
    every reading on one page).
    """
    groups = pick_groups(all_groups(), only or [])
    check_free(out, force=force)
    bench = Bench(profiles, tokens, seed)
    with progress("checking", sum(len(group.readings) for group in groups), "readings") as tick:
        findings = [run_group(group, bench, tick) for group in groups]
    checks = check_table(findings)
    readings = reading_table(findings, checks)
    tables = {
        "checks": checks,
        "overall": overall_table(checks),
        "quantities": quantity_table(findings, checks),
        "readings": readings,
        "open points": open_table(findings, readings),
    }
    console = Console()
    for each in findings:
        console.print(_view(each))
    console.print(_closing(findings))
    console.print(_errors(tables))
    settings = {"profiles": profiles, "tokens": tokens, "seed": seed, "version": hispec_sim.__version__}
    files = move_in(out, lambda folder: _write(folder, findings, tables, settings))
    console.print(f"written to {out}: {', '.join(file.name for file in files)}", soft_wrap=True, highlight=False)


def _view(findings: Findings) -> Group:
    group = findings.group
    parts: list[Table | Text] = [Text(f"\n{group.title}", style="bold"), Text(f"tolerance: {group.tolerance}")]
    for reading in findings.shown:
        role = f" ({_ROLES[role_of(findings, reading)]})" if len(findings.checks) > 1 else ""
        parts += [Text(f"\n{reading}{role}", style="italic"), _rows(findings, reading)]
        first, *others = dict.fromkeys(check.assumption for check in findings.printed(reading))
        more = f" (and {len(others)} more like it: paper_checks.csv)" if others else ""
        parts.append(Text(f"rests on: {first}{more}", style="dim"))
    parts += [Text(f"miss: {text}", style="yellow") for text in _misses(findings)]
    if len(findings.checks) > 1:
        heading = f"\n{len(findings.checks)} readings: the best, the stated and the worst"
        parts += [Text(heading), _readings(findings), Text(f"a reading settles: {findings.group.axes}", style="dim")]
    return Group(*parts)


def _rows(findings: Findings, reading: str) -> Table:
    table = Table()
    table.add_column("check")
    for heading in ("published", "ours", "error", "tolerance"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for check in findings.printed(reading):
        error, tolerance = _error(check)
        verdict = Text("hit") if check.hit else Text("MISS", style="bold red")
        table.add_row(check.name, f"{check.published:.3g}", f"{check.simulated:.3g}", error, tolerance, verdict)
    return table


def _error(check: Check) -> tuple[str, str]:
    if check.absolute:
        return f"{check.error:+.3f}", f"±{check.tolerance:.3g}"
    return f"{check.error:+.1%}", f"±{check.tolerance:.0%}" if check.tolerance >= 0.1 else f"±{check.tolerance:.1%}"


def _readings(findings: Findings) -> Table:
    shown = list(dict.fromkeys((*findings.by_fit[:_READINGS_SHOWN], findings.group.stated, findings.by_fit[-1])))
    table = Table()
    table.add_column("reading")
    for heading in ("hits", "mean error\n/ tolerance"):
        table.add_column(heading, justify="right", no_wrap=True)
    for reading in shown:
        hits = f"{findings.hits(reading)}/{len(findings.printed(reading))}"
        name = f"{reading} (stated)" if reading == findings.group.stated else reading
        table.add_row(name, hits, f"{findings.misfit(reading):.2f}")
    return table


def _closing(findings: list[Findings]) -> Table:
    table = Table(title="\nhits", title_justify="left")
    table.add_column("group")
    for heading in ("stated reading", "best-fitting reading"):
        table.add_column(heading, justify="right")
    for each in findings:
        hits = (f"{each.hits(name)}/{len(each.printed(name))}" for name in (each.group.stated, each.best))
        table.add_row(each.group.title, *hits)
    return table


def _write(
    folder: Path, findings: list[Findings], tables: dict[str, pd.DataFrame], provenance: dict[str, Any]
) -> list[Path]:
    checks = tables["checks"]
    groups = pd.DataFrame(
        [
            {
                "key": each.group.key,
                "title": each.group.title,
                "tolerance": each.group.tolerance,
                "axes": each.group.axes,
                "misses": " ".join(_misses(each)),
            }
            for each in findings
        ]
    )
    result = {
        name: tables[name].astype(object).where(tables[name].notna(), None).to_dict("records")
        for name in ("overall", "quantities")
    }
    files = [folder / f"paper_checks.{ending}" for ending in ("json", "csv", "html")]
    files[0].write_text(json.dumps({"groups": summary(findings), **result}, indent=2) + "\n", encoding="utf-8")
    checks.to_csv(files[1], index=False, float_format="%.6g")
    if find_spec("jinja2") is None:  # the core install does without the page
        del files[2]
    else:
        from hispec_sim.report.published_page import published_page

        files[2].write_text(published_page(tables, groups, provenance), encoding="utf-8")
    return files + draw_published(checks, folder)


def _misses(findings: Findings) -> list[str]:
    """What the misses of the shown readings mean, each once."""
    missed = [check for reading in findings.shown for check in findings.printed(reading) if not check.hit]
    return list(dict.fromkeys(check.explanation for check in missed))


def _errors(tables: dict[str, pd.DataFrame]) -> Table:
    """Quantities that have a ranking; the page has all."""
    table = Table(title="\nerrors (simulated / published - 1) and ranking", title_justify="left")
    table.add_column("quantity")
    for heading in ("reading", "numbers", "median", "p95", "bias", "Kendall tau"):
        table.add_column(heading, justify="left" if heading == "reading" else "right")
    overall = tables["overall"].assign(group="all", quantity="all", kendall_tau=float("nan"))
    for row in pd.concat([tables["quantities"].dropna(subset=["kendall_tau"]), overall]).to_dict("records"):
        source = row["group"].split(":")[0]
        quantity = "all" if source == "all" else f"{source}, {row['quantity']}"
        tau = "-" if pd.isna(row["kendall_tau"]) else f"{row['kendall_tau']:.2f}"
        errors = (f"{row['median']:.1%}", f"{row['p95']:.1%}", f"{row['bias']:+.1%}")
        table.add_row(quantity, row["role"], str(row["numbers"]), *errors, tau)
    return table
