"""Designs that are wrong are refused in a sentence; campaigns go on where they stood."""

from __future__ import annotations

from pathlib import Path

import pytest

from hispec_sim.errors import InputError
from hispec_sim.validate.campaign import Campaign
from hispec_sim.validate.design import Configuration, Design, Entry, load_design
from hispec_sim.validate.observation import Figures, Observation, Shape, merged

SHIPPED = sorted((Path(__file__).parents[2] / "scenarios" / "validation").glob("*.yaml"))
TWO = "prompts: 2\nconfigurations:\n  - {exits: [[]], batch: [1, 2]}\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "design.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_designs(path: Path) -> None:
    """At least 60 configurations each, but for the small ones and the points of the map (of one sequence); names are
    file names, each once."""
    found = load_design(path).expand()
    assert len({each.name for each in found}) == len(found)
    assert {each.batch for each in found} == ({1} if path.stem.startswith("hierarchy") else {1, 4})
    least = {"small": 10, "quick": 22, "hierarchy": 21, "hierarchy_smollm2": 8}
    assert len(found) == least[path.stem] if path.stem in least else len(found) >= 60
    assert {len(each.exits) for each in found} >= {0, 1, 2}


def test_an_entry_spans_its_lists_and_repeats_nothing(tmp_path: Path) -> None:
    text = "prompts: 2\nconfigurations:\n  - {exits: [[2], [4]], draft_length: [1, 2], batch: [1]}\n"
    found = load_design(written(tmp_path, text + "  - {exits: [[2]], draft_length: [2, 3]}\n")).expand()
    names = [each.name for each in found]
    assert names == [
        f"ex{e}_nd{n}_on_mismatch_b1_t64" for e, n in ((2, 1), (2, 2), (4, 1), (4, 2), (2, 3))
    ]  # the second entry's first is known already


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompts: [", "is not YAML"),
        ("prompts: 2\n", "configurations: Field required"),
        ("prompts: 0\nconfigurations: [{}]\n", "prompts: .*greater than or equal to 1"),
        ("prompts: 2\nconfigurations: [{exit: [[2]]}]\n", r"configurations.0.exit: Extra inputs"),
        ("prompts: 2\nconfigurations: [{exits: [[2, 8]]}]\n", "entry 1: exits .2, 8. take 1 verify periods"),
        ("prompts: 2\nconfigurations: [{batch: [4]}]\n", "entry 1: batch 4 needs as many prompts"),
        ("prompts: 6\nblocks: 2\nconfigurations: [{batch: [4]}]\n", "6 prompts in 2 blocks are 3"),
    ],
)
def test_wrong_designs(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_design(written(tmp_path, text)).expand()


def test_exits_are_below_the_target(tmp_path: Path) -> None:
    configuration = Configuration((4,), 2, (), load_design(written(tmp_path, TWO)).expand()[0].bonus, 1, 8)
    assert [level.exit_layer for level in configuration.cascade(5).levels] == [4, 5]
    with pytest.raises(InputError, match="exit 4 must be below the target's 4 layers"):
        configuration.cascade(4)


def observation(configuration: Configuration, repeat: int, block: int) -> Observation:
    figures = Figures(10.0, 1.0, (float("nan"),), 1.0, (100.0,))
    shapes = {Shape("target", 0, 4, 1, 1, 1): (8, 70.5)}
    return Observation(configuration.name, repeat, 8, 80.0, 5.0, 70.5, figures, shapes, [[(1, 2, 1)]], f"{block}")


def test_a_campaign_that_was_stopped_goes_on(tmp_path: Path) -> None:
    """Ctrl-C during the third of eight blocks: two are kept, and resuming runs the others."""
    configurations = load_design(written(tmp_path, TWO)).expand()
    campaign = Campaign(tmp_path / "out", {"seed": 1}, resume=False)
    done: list[tuple[str, int, int]] = []

    def observe(configuration: Configuration, repeat: int, block: int) -> Observation:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append((configuration.name, repeat, block))
        return observation(configuration, repeat, block)

    with pytest.raises(KeyboardInterrupt):
        campaign.decode(campaign.missing(configurations, 2, [1, 1]), observe)
    assert {(repeat, block) for _, repeat, block in done} == {(0, 0)}, "all configurations, before the next block"
    assert [len(each.verified) for each in campaign.observations(configurations[0])] == [1]
    again: list[tuple[str, int, int]] = []
    resumed = Campaign(tmp_path / "out", {"seed": 1}, resume=True)

    def observe_again(configuration: Configuration, repeat: int, block: int) -> Observation:
        again.append((configuration.name, repeat, block))
        return observation(configuration, repeat, block)

    rests: list[None] = []
    resumed.decode(resumed.missing(configurations, 2, [1, 1]), observe_again, rest=lambda: rests.append(None))
    assert not resumed.missing(configurations, 2, [1, 1])
    assert len(rests) == len(again), "others have a chance before each run, and only there"
    assert sorted(done + again) == sorted((c.name, r, b) for c in configurations for r in range(2) for b in range(2))
    whole = [merged([observation(configurations[0], r, b) for b in range(2)]) for r in range(2)]
    assert repr(resumed.observations(configurations[0])) == repr(whole)
    (tmp_path / "out" / "runs" / f"{configurations[0].name}.r001.p001.json").unlink()
    assert repr(resumed.observations(configurations[0])) == repr(whole[:1]), "a run that lacks a block is left out"


def test_single_sequences_take_turns_prompt_by_prompt(tmp_path: Path) -> None:
    """Two blocks of two and three prompts: one at a time they are five runs, side by side two; those of a block are
    mixed, and no block begins before the one before has ended."""
    one, two = load_design(written(tmp_path, TWO)).expand()
    assert one.parts([2, 3]) == [[range(0, 1), range(1, 2)], [range(2, 3), range(3, 4), range(4, 5)]]
    assert two.parts([2, 3]) == [[range(0, 2)], [range(2, 5)]]
    campaign = Campaign(tmp_path / "out", {}, resume=False)
    runs = campaign.missing([one, two], 1, [2, 3])
    assert sorted(part for each, _, part in runs if each == one) == [0, 1, 2, 3, 4]
    assert [part for each, _, part in runs if each == two] == [0, 1]
    assert {(each, part) for each, _, part in runs[:3]} == {(one, 0), (one, 1), (two, 0)}
    campaign.decode(runs, observation)
    assert [len(each.verified) for each in campaign.observations(one)] == [5]
    assert not campaign.missing([one, two], 1, [2, 3])
    for each in (one, two):
        assert len(campaign.blocks(each, [2, 3])) == 2
    assert [len(block.verified) for block in campaign.blocks(one, [2, 3])] == [2, 3]
    assert campaign.common_blocks([one, two], [2, 3]) == 2
    (tmp_path / "out" / "runs" / f"{one.name}.r000.p004.json").unlink()
    assert [len(block.verified) for block in campaign.blocks(one, [2, 3])] == [2], "one that is not whole is left out"
    assert campaign.common_blocks([one, two], [2, 3]) == 1, "of all together too, or they would be of other prompts"
    assert [len(each.verified) for each in campaign.observations(one, 2)] == [2]
    assert [len(each.verified) for each in campaign.observations(one)] == [4]
    (tmp_path / "out" / "runs" / f"{two.name}.r000.p000.json").unlink()
    assert campaign.common_blocks([one, two], [2, 3]) == 0


def test_blocks_make_one_run() -> None:
    """8 tokens in 80 ms at 2 a pass and 8 forwards, then 24 in 120 ms at 3 and 4: 32 tokens, 200 ms, 12 passes."""
    shapes = ({Shape("target", 0, 4, 1, 1, 1): (8, 70.0)}, {Shape("target", 0, 4, 1, 1, 1): (4, 20.0)})
    nan = float("nan")
    one = Observation("c", 0, 8, 80.0, 5.0, 70.0, Figures(100.0, 2.0, (nan, 0.5), 1.0, (4.0, 6.0)), shapes[0],
                      [[(1, 2, 1)]], "a")  # fmt: skip
    two = Observation("c", 0, 24, 120.0, 6.0, 90.0, Figures(200.0, 3.0, (nan, 1.0), 2.0, (1.0, 4.0)), shapes[1],
                      [[(1, 2, 2)], [(1, 4, 4)]], "b")  # fmt: skip
    found = merged([one, two])
    assert (found.tokens, found.decode_ms, found.prefill_ms, found.forward_ms) == (32, 200.0, 11.0, 160.0)
    assert found.figures.tokens_per_s == pytest.approx(160)
    assert found.figures.tokens_per_target_pass == pytest.approx(32 / 12)
    assert found.figures.matched_per_drafted[1] == pytest.approx(7 / 8)
    assert found.figures.forwards_per_token == pytest.approx(12 / 32)
    assert found.figures.level_ms_per_token == pytest.approx(((32 + 24) / 32, (48 + 96) / 32))
    assert found.times == {Shape("target", 0, 4, 1, 1, 1): (12, 90.0)}
    assert found.verified == [[(1, 2, 1)], [(1, 2, 2)], [(1, 4, 4)]]
    assert merged([one]) is one


def test_prompts_are_chosen_once(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path / "out", {}, resume=False)
    assert campaign.prompts(lambda: ["a", "b"]) == ["a", "b"]
    assert Campaign(tmp_path / "out", {}, resume=True).prompts(lambda: pytest.fail("chosen again")) == ["a", "b"]
    (tmp_path / "out" / "prompts.json").write_text("{")
    with pytest.raises(InputError, match=r"prompts.json is damaged"):
        campaign.prompts(list)


def test_campaigns_mix_nothing(tmp_path: Path) -> None:
    configuration = load_design(written(tmp_path, TWO)).expand()[0]
    out = tmp_path / "out"
    campaign = Campaign(out, {"seed": 1}, resume=False)
    campaign.decode([(configuration, 0, 0)], observation)
    with pytest.raises(InputError, match="is not empty"):
        Campaign(out, {"seed": 1}, resume=False)
    with pytest.raises(InputError, match="begun with another seed"):
        Campaign(out, {"seed": 2}, resume=True)
    with pytest.raises(InputError, match="--resume"):
        Campaign(tmp_path / "nothing", {}, resume=True)
    next((out / "runs").glob("*.json")).write_text('{"figures": {}}')
    with pytest.raises(InputError, match="is damaged, or of another version"):
        campaign.observations(configuration)
    assert design_blocks(10, 4) == [2, 2, 3, 3]


@pytest.mark.parametrize(("limit", "sizes"), [(None, [4, 4, 4]), (8, [4, 4]), (9, [4, 5]), (3, [3]), (24, [4] * 6)])
def test_fewer_prompts_in_fewer_blocks(tmp_path: Path, limit: int | None, sizes: list[int]) -> None:
    """Blocks stay as large, or a batch would not fit."""
    (tmp_path / "d.yaml").write_text("prompts: 12\nblocks: 3\nconfigurations: [{}]\n")
    assert load_design(tmp_path / "d.yaml", limit).block_sizes() == sizes


def design_blocks(prompts: int, blocks: int) -> list[int]:
    return Design(prompts=prompts, blocks=blocks, configurations=[Entry()]).block_sizes()
