"""Designs that are wrong are refused in a sentence; campaigns go on where they stood."""

from __future__ import annotations

from pathlib import Path

import pytest

from hispec_sim.errors import InputError
from hispec_sim.validate.campaign import Campaign
from hispec_sim.validate.design import Configuration, load_design
from hispec_sim.validate.observation import Figures, Observation, Shape

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
    least = {"small": 10, "quick": 22, "hierarchy": 21, "hierarchy_smollm2": 7}
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


def observation(configuration: Configuration, repeat: int) -> Observation:
    figures = Figures(10.0, 1.0, (float("nan"),), 1.0, (100.0,))
    shapes = {Shape("target", 0, 4, 1, 1, 1): (8, 70.5)}
    return Observation(configuration.name, repeat, 8, 80.0, 5.0, 70.5, figures, shapes, [[(1, 2, 1)]], "00")


def test_a_campaign_that_was_stopped_goes_on(tmp_path: Path) -> None:
    """Ctrl-C during the third of four runs: two are kept, and resuming runs the other two."""
    configurations = load_design(written(tmp_path, TWO)).expand()
    campaign = Campaign(tmp_path / "out", {"seed": 1}, resume=False)
    done: list[tuple[str, int]] = []

    def observe(configuration: Configuration, repeat: int) -> Observation:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append((configuration.name, repeat))
        return observation(configuration, repeat)

    with pytest.raises(KeyboardInterrupt):
        campaign.decode(configurations, 2, observe, lambda: None)
    assert {repeat for _, repeat in done} == {0}
    again: list[tuple[str, int]] = []
    resumed = Campaign(tmp_path / "out", {"seed": 1}, resume=True)

    def observe_again(configuration: Configuration, repeat: int) -> Observation:
        again.append((configuration.name, repeat))
        return observation(configuration, repeat)

    resumed.decode(configurations, 2, observe_again, lambda: None)
    assert sorted(done + again) == sorted((c.name, r) for c in configurations for r in range(2))
    assert repr(resumed.observations(configurations[0])) == repr([observation(configurations[0], r) for r in range(2)])


def test_campaigns_mix_nothing(tmp_path: Path) -> None:
    configuration = load_design(written(tmp_path, TWO)).expand()[0]
    out = tmp_path / "out"
    campaign = Campaign(out, {"seed": 1}, resume=False)
    campaign.decode([configuration], 1, observation, lambda: None)
    with pytest.raises(InputError, match="is not empty"):
        Campaign(out, {"seed": 1}, resume=False)
    with pytest.raises(InputError, match="begun with another seed"):
        Campaign(out, {"seed": 2}, resume=True)
    with pytest.raises(InputError, match="--resume"):
        Campaign(tmp_path / "nothing", {}, resume=True)
    next((out / "runs").glob("*.json")).write_text('{"figures": {}}')
    with pytest.raises(InputError, match="is damaged"):
        campaign.observations(configuration)
