"""vLLM's counters: what they come to, and what they are refused for."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hispec_sim.acceptance.models import PerPosition
from hispec_sim.acceptance.vllm_metrics import Counters, notes_on, read_metrics, scenario_block
from hispec_sim.cli.main import main
from hispec_sim.errors import InputError
from hispec_sim.scenario.schema import Parameter, PerPositionSpec

DUMP = Path(__file__).parent / "data/vllm_metrics.txt"
LLAMA = "meta-llama/Llama-3.1-8B-Instruct"


def test_engines_are_summed() -> None:
    """Shares by hand: 8,000 of 10,000, then 6,000 of 8,000, then 4,000 of 6,000."""
    counters = read_metrics(DUMP)
    assert counters == Counters(LLAMA, 10_000, 30_000, 18_000, (8000, 6000, 4000))
    assert counters.accept == pytest.approx((0.8, 0.75, 2 / 3))
    assert counters.tokens_per_target_pass == 2.8
    assert notes_on(counters) == []


def test_the_block_can_be_pasted(capsys: pytest.CaptureFixture[str]) -> None:
    """It is what the scenario's schema takes, and means what the counters say."""
    with pytest.raises(SystemExit) as exit_:
        main(["trace", "import", "vllm", str(DUMP)])
    assert exit_.value.code == 0
    printed = capsys.readouterr().out
    assert "Not known" in printed
    block = yaml.safe_load(printed)
    parameters = {f"${name}": Parameter.model_validate(given).value for name, given in block["parameters"].items()}
    accept = [[parameters[name] for name in places] for places in block["acceptance"]["accept"]]
    spec = PerPositionSpec.model_validate({**block["acceptance"], "accept": accept})
    model = PerPosition(tuple(map(tuple, spec.accept)))
    expected = [model.accept_probability(1, 0, corrected=False, offset=k, on_path=True) for k in range(3)]
    assert expected == pytest.approx([0.8, 0.75, 2 / 3], abs=1e-6)
    assert LLAMA in block["parameters"]["vllm_accept_0"]["source"]


def test_the_source_tells_which_model(capsys: pytest.CaptureFixture[str]) -> None:
    """Or the command would not do the same again where there are several."""
    with pytest.raises(SystemExit):
        main(["trace", "import", "vllm", str(DUMP), "--model-name", LLAMA])
    source = yaml.safe_load(capsys.readouterr().out)["parameters"]["vllm_accept_0"]["source"]
    assert f"{DUMP} --model-name {LLAMA})" in source


def test_counters_without_labels(tmp_path: Path) -> None:
    """Of a server of one model and one engine; only positions must be told."""
    dump = tmp_path / "m.txt"
    name = "vllm:spec_decode_num_"
    lines = [f"{name}drafts_total 10.0", f"{name}draft_tokens_total 20.0 1763700000", f"{name}accepted_tokens_total 12"]
    places = [f'{name}accepted_tokens_per_pos_total{{position="{k}"}} {n}' for k, n in enumerate((8, 4))]
    dump.write_text("\n".join([*lines, *places]))
    counters = read_metrics(dump)
    assert (counters.drafts, counters.draft_tokens, counters.per_position) == (10, 20, (8, 4))
    dump.write_text("\n".join([*lines, f"{name}accepted_tokens_per_pos_total 12.0"]))
    with pytest.raises(InputError, match="no position="):
        read_metrics(dump)


def test_a_dump_of_an_older_engine_is_told_what_helps(tmp_path: Path) -> None:
    """V0 counts tokens only: no dump of it is ever whole."""
    labels = f'{{model_name="{LLAMA}"}}'
    counts = {"accepted_tokens": 8547.0, "draft_tokens": 13311.0, "emitted_tokens": 10616.0}
    text = "\n".join(f"vllm:spec_decode_num_{name}_total{labels} {count}" for name, count in counts.items())
    (tmp_path / "m.txt").write_text(text)
    with pytest.raises(InputError, match="needs vLLM V1's metrics; dump them from a server with a newer vLLM"):
        read_metrics(tmp_path / "m.txt")


def test_an_interval_is_a_difference(tmp_path: Path) -> None:
    """Counters go on for as long as the server does; a restart is noticed."""
    later = tmp_path / "later.txt"
    text = DUMP.read_text()
    for count in (6000.0, 18000.0, 10800.0, 4800.0, 3600.0, 2400.0):
        text = text.replace(
            f'engine="0",model_name="{LLAMA}"}} {count}', f'engine="0",model_name="{LLAMA}"}} {2 * count}'
        )
        text = text.replace(f'"}} {count}\n', f'"}} {2 * count}\n') if count in (4800.0, 3600.0) else text
    text = text.replace(
        'engine="0",model_name="' + LLAMA + '",position="2"} 2400.0',
        'engine="0",model_name="' + LLAMA + '",position="2"} 4800.0',
    )
    later.write_text(text)
    gained = read_metrics(later).since(read_metrics(DUMP))
    assert gained == Counters(LLAMA, 6000, 18_000, 10_800, (4800, 3600, 2400))
    with pytest.raises(InputError, match="started anew"):
        read_metrics(DUMP).since(read_metrics(later))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("vllm:spec_decode", "vllm:other", "holds no vllm:spec_decode_num_"),
        ("num_drafts_total", "num_draughts_total", "lacks vllm:spec_decode_num_drafts_total"),
        ("per_pos_total", "per_place_total", "lacks vllm:spec_decode_num_accepted_tokens_per_pos_total"),
        ('position="1"', 'position="5"', "have gaps"),
        (',position="2"', "", "no position="),
        ("4800.0", "4800.5", "must be a whole number"),
        ("4800.0", "NaN", "must be a whole number"),
        ("4800.0", "480.0", "must not rise"),
        ("10800.0", "10801.0", "do not fit"),
        ("6000.0", "0", "must not rise"),
        (f'engine="1",model_name="{LLAMA}"', 'engine="1",model_name="other"', "choose with --model-name one of"),
    ],
)
def test_dumps_that_say_too_little(tmp_path: Path, old: str, new: str, words: str) -> None:
    """Each is refused in one sentence."""
    (tmp_path / "m.txt").write_text(DUMP.read_text().replace(old, new))
    with pytest.raises(InputError, match=words):
        read_metrics(tmp_path / "m.txt")


def test_short_drafts_are_noted() -> None:
    assert "shorter than 2 tokens" in notes_on(Counters("m", 10, 17, 12, (8, 4)))[0]
    assert "nobody" not in scenario_block(Counters("m", 10, 17, 12, (8, 4)), "it's a test")
    assert "\nbonus: always " in scenario_block(Counters("m", 10, 17, 12, (8, 4)), "it's a test")
    assert Counters("m", 10, 20, 8, (8, 0)).accept == (0.8, 0.0)


def test_no_counts_no_numbers() -> None:
    with pytest.raises(InputError, match="counted no draft"):
        Counters("m", 0, 0, 0, (0,))
