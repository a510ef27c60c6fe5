"""Profiling for real: the reference model on this machine, quickly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hispec_sim.cli.main import app
from hispec_sim.errors import InputError
from hispec_sim.latency import read_profile, write_profile
from hispec_sim.latency.cost import NetworkCost
from hispec_sim.models.loading import load_model
from hispec_sim.profiler.profiling import check_device, device_slug

QUICK = [
    "--model",
    "reference",
    "--batch",
    "1,2",
    "--query-tokens",
    "1,2,4,16",
    "--contexts",
    "16,128,192",
    "--allow-noise",
]


@pytest.fixture(scope="module")
def profile_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("profile") / "reference.csv"
    result = CliRunner().invoke(app, ["profile", "run", *QUICK, "--budget", "12s", "--out", str(path)])
    assert result.exit_code == 0, result.output
    return path


def test_a_profile_of_this_machine_prices_forwards(profile_path: Path) -> None:
    profile = read_profile(profile_path)
    assert profile.provenance.software["threads"] == "1"
    assert {"layer", "forward", "host", "choose", "layer_repeat_2"} <= {table.op for table in profile.tables}
    assert not profile_path.with_name("reference.csv.samples.json").exists()
    cost = NetworkCost(profile, tensor_parallel=1)

    def ms(last_layer: int) -> float:
        return float(cost.forward_ms(first_layer=0, last_layer=last_layer, batch=1, tokens=1, logits=1, context=64))

    assert 2 < ms(40) / ms(10) < 5
    quantiles = profile.relative_quantiles()
    assert quantiles is not None
    assert quantiles[0] < 1 < quantiles[1]


def test_the_check_prints_errors_of_forwards_and_of_decoding(profile_path: Path) -> None:
    options = ["--model", "reference", "--points", "2", "--repeats", "2"]
    result = CliRunner().invoke(app, ["profile", "check", str(profile_path), *options])
    assert result.exit_code == 0, result.output
    assert "forwards: error median" in result.output
    assert "decoding: error median" in result.output


def test_a_profile_of_another_device_is_refused(profile_path: Path, tmp_path: Path) -> None:
    network = load_model("reference").network
    profile = read_profile(profile_path)
    assert profile.device == device_slug(network)
    check_device(profile, network)
    other = replace(profile, device="cpu_other")
    with pytest.raises(InputError, match="measured on another device"):
        check_device(other, network)
    write_profile(other, tmp_path / "other.csv")
    result = CliRunner().invoke(app, ["profile", "check", str(tmp_path / "other.csv"), "--model", "reference"])
    assert isinstance(result.exception, InputError)


def test_nothing_is_replaced_unasked(profile_path: Path) -> None:
    before = profile_path.read_bytes()
    result = CliRunner().invoke(app, ["profile", "run", *QUICK, "--out", str(profile_path)])
    assert "exists already" in str(result.exception)
    assert profile_path.read_bytes() == before


def test_what_is_measured_is_kept_for_the_same_command(tmp_path: Path) -> None:
    path = tmp_path / "short.csv"
    result = CliRunner().invoke(app, ["profile", "run", *QUICK, "--budget", "0.05s", "--out", str(path)])
    assert result.exit_code == 1
    assert "the same command goes on" in result.output.replace("\n", " ")
    assert path.with_name("short.csv.samples.json").exists()
    assert not path.exists()


def test_two_profiles_side_by_side(profile_path: Path) -> None:
    result = CliRunner().invoke(app, ["profile", "compare", str(profile_path), str(profile_path)])
    assert result.exit_code == 0
    assert "1.00x" in result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch", "x"], "--batch must be whole numbers"),
        (["--contexts", "8"], "cannot hold"),
        (["--budget", "soon"], "--budget must be a time"),
        (["--repeats", "40"], "have 1 to 39 layers"),
        (["--contexts", "100000"], "positions"),
    ],
)
def test_wrong_options_are_one_sentence(options: list[str], message: str, tmp_path: Path) -> None:
    arguments = ["profile", "run", *QUICK, *options, "--out", str(tmp_path / "x.csv")]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, InputError)
    assert message in str(result.exception)
