"""`hispec profile`: what it prints, draws and refuses."""

from __future__ import annotations

import pytest
from latency_fakes import SHIPPED, SMALL, WHOLE_LAYER
from typer.testing import CliRunner

from hispec_sim.cli.profile import profile_app
from hispec_sim.errors import InputError
from hispec_sim.latency import write_profile
from hispec_sim.latency.curves import profile_slices

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
