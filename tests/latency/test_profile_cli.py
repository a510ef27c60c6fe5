"""`hispec profile`: what it prints, draws and refuses."""

from __future__ import annotations

import matplotlib
import pytest
from latency_fakes import SHIPPED, SMALL, WHOLE_LAYER, make_profile
from typer.testing import CliRunner

from hispec_sim.cli.profile import profile_app
from hispec_sim.cli.profile_panels import panels_of
from hispec_sim.errors import InputError
from hispec_sim.latency import NetworkCost, read_profile, write_profile
from hispec_sim.latency.curves import profile_slices
from hispec_sim.report.profile_figures import draw_profile

SHIPPED_70B = next(path for path in SHIPPED if path.match("h100_sxm/llama-3.1-70b.csv"))


def run(*arguments: object) -> str:
    """The output; an InputError, which the main command line prints, comes out as itself."""
    result = CliRunner().invoke(profile_app, [str(a) for a in arguments], env={"COLUMNS": "140"})
    if result.exception is not None:
        raise result.exception
    return result.output


def test_show_prints_provenance_ranges_errors_and_shares():
    output = run("show", SHIPPED_70B)
    for expected in ("h100_sxm/llama-3.1-70b", "sglang 0.5.14", "measured", "1-32768", "layer_linear", "68%"):
        assert expected in output
    assert "--force" in output  # the command that makes the file again


def test_show_draws_a_figure_for_each_profile(tmp_path):
    small = write_profile(SMALL, tmp_path / "small.csv")
    run("show", small, "--out", tmp_path / "one.png")
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    layers = write_profile(WHOLE_LAYER, tmp_path / "layers.csv")
    with pytest.raises(InputError, match=r"one\.png exists already; nothing was written"):
        run("show", small, "--out", tmp_path / "one.png")
    run("show", SHIPPED_70B, layers, "--out", tmp_path / "two.svg")
    drawn = {path.name for path in tmp_path.glob("two*.svg")}
    assert drawn == {"two-h100_sxm-llama-3.1-70b.svg", "two-toy-tiny.svg"}


def test_show_of_an_unknown_device_has_no_roofline(tmp_path):
    path = write_profile(SMALL, tmp_path / "small.csv")
    output = run("show", path)
    assert "No roofline" in output
    assert "p10 0.900, p90 1.200" in output
    assert all(found.roofline_ms is None for found in profile_slices(SMALL))


def test_whole_forwards_are_drawn_over_layers():
    """As NetworkCost prices them, with whichever all-reduce there is."""
    nccl_only = make_profile([row for row in SMALL.rows if row.op != "all_reduce_custom"])
    for profile in (SMALL, nccl_only, WHOLE_LAYER):
        over_layers = [found for found in profile_slices(profile) if found.axis == "layers"]
        assert [found.label[-1] for found in over_layers] == [str(degree) for degree in profile.tensor_parallels]
        one = over_layers[0]
        assert one.line_x.tolist() == list(range(1, 9))
        cost = NetworkCost(profile, tensor_parallel=1)
        for last in (1, 8):
            ms = cost.forward_ms(first_layer=0, last_layer=last, batch=1, tokens=1, logits=1, context=64)
            assert one.line_ms[last - 1] == pytest.approx(float(ms))
    shipped = [found for found in profile_slices(read_profile(SHIPPED_70B)) if found.axis == "layers"]
    assert all((found.roofline_ms < found.line_ms).all() for found in shipped)


@pytest.mark.parametrize(
    ("profile", "op", "shown"),
    [
        (WHOLE_LAYER, "layer", {"measured", "interpolation"}),
        (SMALL, "attention", {"derived", "interpolation"}),
        (read_profile(SHIPPED_70B), "layer_linear", {"derived", "interpolation", "roofline"}),
        (WHOLE_LAYER, "whole forward over layers", {"interpolation"}),
    ],
    ids=["measured", "derived", "roofline", "no points"],
)
def test_the_legend_names_what_is_drawn(tmp_path, profile, op, shown):
    panels = [panel for panel in panels_of([profile], [""]) if panel.title.split(" (")[0] == op]
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        draw_profile("title", panels, tmp_path / "drawn.svg")
    drawn = (tmp_path / "drawn.svg").read_text()
    marks = ("measured", "derived", "interpolation", "roofline")
    assert {mark for mark in marks if f">{mark}" in drawn} == shown
    assert "never falling" not in drawn, "medians of repeats may fall"


def test_figures_show_the_points_and_pass_through_them():
    for found in profile_slices(SMALL):
        assert set(found.x) <= set(found.line_x)
        assert found.x.shape == found.ms.shape == found.measured.shape
        assert found.line_x.shape == found.line_ms.shape


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "none.csv"], r"none\.csv: no such latency profile"),
        (["show", SHIPPED_70B, "--out", "figure.txt"], r"--out must end in \.png, \.pdf or \.svg"),
        (["show", SHIPPED_70B, "--out", "no/such/f.png"], "there is no directory no/such"),
        (["import", "aiconfigurator", "--device", "h100_sxm"], "give --network with --out"),
        (["import", "aiconfigurator", "--device", "h100_sxm", "--all"], "--all goes with --out-dir"),
        (
            ["import", "aiconfigurator", "--device", "h100_sxm", "--network", "gpt", "--out", "x.csv"],
            "unknown network 'gpt'; known networks are llama-3.1-70b",
        ),
        (
            ["import", "aiconfigurator", "--device", "h", "--network", "llama-3.2-1b", "--out", "x", "--date", "May"],
            "--date must be a day as YYYY-MM-DD, got 'May'",
        ),
        (
            ["import", "aiconfigurator", "--device", "h", "--network", "llama-3.2-1b", "--out", SHIPPED_70B],
            r"llama-3\.1-70b\.csv exists already; nothing was written",
        ),
    ],
)
def test_refusals(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        run(*arguments)
    assert list(tmp_path.iterdir()) == []
