"""What was found once is found again, on the same machine only, and a file that is no good does no harm."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from test_layouts import layouts_of, network

from hispec_sim.models import found_layouts, layouts
from hispec_sim.models.found_layouts import found_before, remember
from hispec_sim.models.layouts import lay_out_for_cpu
from hispec_sim.models.linear import Layout

SHAPE = torch.Size((384, 128))


def test_a_second_start_lays_out_as_the_first_did(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a trial would say then."""
    trials: list[torch.Size] = []

    def says(layout: Layout):  # type: ignore[no-untyped-def]
        def fastest(weights: Sequence[torch.Tensor]) -> Layout:
            trials.append(weights[0].shape)
            return layout

        return fastest

    monkeypatch.setattr(layouts, "fastest_layout", says(Layout.TRANSPOSED))
    first = layouts_of(lay_out_for_cpu(network()))
    monkeypatch.setattr(layouts, "fastest_layout", says(Layout.PLAIN))
    assert layouts_of(lay_out_for_cpu(network())) == first == {Layout.TRANSPOSED}
    assert len(trials) == len(set(trials)), "each shape once"
    assert Layout.PLAIN in layouts_of(lay_out_for_cpu(network(hidden=256))), "other shapes are tried"
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        assert layouts_of(lay_out_for_cpu(network())) == {Layout.PLAIN}, "and all for other threads"
    finally:
        torch.set_num_threads(threads)


def test_other_machines_and_shapes_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    remember({SHAPE: Layout.PACKED})
    with monkeypatch.context() as patch:
        patch.setattr(found_layouts.platform, "node", lambda: "elsewhere")
        assert found_before() == {}
        remember({SHAPE: Layout.PLAIN})
    remember({torch.Size((8, 8)): Layout.PLAIN})
    assert found_before() == {SHAPE: Layout.PACKED, torch.Size((8, 8)): Layout.PLAIN}


@pytest.mark.parametrize(
    "content", ["", "{", "[1]", '{"here": 3}', '{"here": {"8x": "plain"}}', '{"here": {"8x8": "odd"}}']
)
def test_a_damaged_file_is_as_none_and_is_replaced(content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(found_layouts, "_here", lambda: "here")
    path = Path(os.environ["HISPEC_CACHE"]) / "layouts.json"
    path.write_text(content)
    assert found_before() == {}
    remember({SHAPE: Layout.PACKED})
    assert found_before() == {SHAPE: Layout.PACKED}
    assert list(path.parent.iterdir()) == [path]


def test_where_nothing_can_be_written_nothing_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HISPEC_CACHE", str(tmp_path / "file"))
    remember({SHAPE: Layout.PACKED})
    assert found_before() == {}
