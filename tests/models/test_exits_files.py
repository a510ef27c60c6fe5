"""Exit heads on disk and on networks: what comes back, and what is refused."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hispec_sim.errors import InputError
from hispec_sim.models.config import LlamaConfig
from hispec_sim.models.exits import Kind, attach, heads_of, new_head
from hispec_sim.models.files.exit_files import CARD, WEIGHTS, load_heads, read_card, save_heads
from hispec_sim.models.files.safetensors_folder import load_folder, save_folder
from hispec_sim.models.llama import Llama
from hispec_sim.networks import NetworkSpec


def tiny(seed: int = 1, *, hidden: int = 32, n_layers: int = 4, rope_theta: float = 1e4) -> Llama:
    torch.manual_seed(seed)
    shape = NetworkSpec("tiny", n_layers, hidden, 4, 2, 8, 48, 31, True)
    return Llama(LlamaConfig(shape, max_positions=32, rope_theta=rope_theta)).eval()


def saved(folder: Path, kind: Kind = Kind.BLOCK) -> Llama:
    """A network whose heads for exits 1 and 3 lie in the folder."""
    network = tiny()
    heads = {layer: new_head(kind, network) for layer in (1, 3)}
    with torch.no_grad():
        for head in heads.values():
            for parameter in head.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    save_heads(folder, network, heads, {"seed": 7, "agreement": {"1": 0.5}})
    return network


@pytest.mark.parametrize("kind", list(Kind))
@torch.inference_mode()
def test_saved_heads_come_back(tmp_path: Path, kind: Kind) -> None:
    """In fp16, with their provenance; saved again they are the same bytes."""
    network = saved(tmp_path, kind)
    heads = load_heads(tmp_path, network)
    assert set(heads) == {1, 3}
    assert read_card(tmp_path).provenance == {"seed": 7, "agreement": {"1": 0.5}}
    before = network(torch.arange(9)[None], exit_layer=1)
    full = network(torch.arange(9)[None])
    attach(network, heads)
    assert (network(torch.arange(9)[None], exit_layer=1) - before).abs().max() > 0.01
    assert torch.equal(network(torch.arange(9)[None]), full)
    save_heads(tmp_path / "again", network, heads, {"seed": 7, "agreement": {"1": 0.5}})
    assert all((tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes() for name in (CARD, WEIGHTS))
    attach(network, {})
    assert torch.equal(network(torch.arange(9)[None], exit_layer=1), before)


def test_a_network_is_saved_without_its_heads(tmp_path: Path) -> None:
    """They are files of their own, and fit the network that comes back, rounded otherwise too."""
    network = saved(tmp_path / "heads")
    attach(network, load_heads(tmp_path / "heads", network))
    save_folder(network, tmp_path / "other_name")
    loaded = load_folder(tmp_path / "other_name", dtype="bf16")
    assert not heads_of(loaded)
    attach(loaded, load_heads(tmp_path / "heads", loaded, exits=[3]))
    assert list(heads_of(loaded)) == [3]
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}


def edit(change: Callable[[dict], object]) -> Callable[[Path], None]:  # type: ignore[type-arg]
    def damage(folder: Path) -> None:
        card = json.loads((folder / CARD).read_text())
        change(card)
        (folder / CARD).write_text(json.dumps(card))

    return damage


def retensor(change: Callable[[dict], object]) -> Callable[[Path], None]:  # type: ignore[type-arg]
    """Change the tensors, and let the card know of the change."""

    def damage(folder: Path) -> None:
        import hashlib

        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS)
        digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
        edit(lambda card: card.update(weights_sha256=digest))(folder)

    return damage


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda folder: (folder / CARD).unlink(), "no exits.json"),
        (lambda folder: (folder / WEIGHTS).unlink(), "lacks exits.safetensors"),
        (lambda folder: (folder / CARD).write_text("{"), "not JSON"),
        (lambda folder: (folder / CARD).write_text("[]"), "damaged"),
        (lambda folder: (folder / CARD).write_bytes(b"\xff\xfe{"), "not JSON"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"x" * 900), "damaged, or not the file"),
        (edit(lambda card: card.update(format=2)), "format 2; this version reads 1"),
        (edit(lambda card: card.update(kind="mamba")), "kind"),
        (edit(lambda card: card.pop("exit_layers")), "exit_layers"),
        (edit(lambda card: card.update(exit_layers=[1, 4])), "damaged: exit layers"),
        (edit(lambda card: card.update(exit_layers=[])), "damaged: exit layers"),
        (edit(lambda card: card.update(exit_layers=[1, 2, 3])), "head of exit 2 has"),
        (edit(lambda card: card.update(kind="adapter")), "head of exit 1 has norm.weight of size None"),
        (edit(lambda card: card["network"].update(n_layers=8)), "n_layers 8; network tiny has n_layers 4"),
        (retensor(lambda t: t.pop("3.layer.down.weight")), "exit 3 has layer.down.weight of size None"),
        (retensor(lambda t: t.update({"1.more": torch.ones(2)})), "also holds more"),
        (retensor(lambda t: t.pop("network")), "trained on other weights"),
    ],
)
def test_damaged_folders_are_refused(tmp_path: Path, damage: Callable[[Path], None], expected: str) -> None:
    network = saved(tmp_path)
    damage(tmp_path)
    with pytest.raises(InputError, match=expected):
        load_heads(tmp_path, network)


@pytest.mark.parametrize("name", [CARD, WEIGHTS])
def test_files_that_may_not_be_read(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever tests may be allowed to read everything."""
    network, read_bytes = saved(tmp_path), Path.read_bytes

    def denied(path: Path) -> bytes:
        if path.name == name:
            raise PermissionError(errno.EACCES, "Permission denied")
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(InputError, match=rf"cannot read .*{name}: Permission denied; make it readable"):
        load_heads(tmp_path, network)


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (lambda: tiny(hidden=40), "hidden_size 32; network tiny has hidden_size 40"),
        (lambda: tiny(n_layers=5), "n_layers 4; network tiny has n_layers 5"),
        (lambda: tiny(rope_theta=1e5), "rope_theta"),
        (lambda: tiny(seed=2), "trained on other weights than those of tiny, although the shape is the same"),
    ],
)
def test_other_networks_are_refused(tmp_path: Path, network: Callable[[], Llama], expected: str) -> None:
    saved(tmp_path)
    with pytest.raises(InputError, match=expected):
        load_heads(tmp_path, network())


def test_wrong_requests_are_refused(tmp_path: Path) -> None:
    """An exit without a head, a layer that is no exit, a head of another size, heads of two kinds."""
    network = saved(tmp_path)
    with pytest.raises(InputError, match="heads for layers 1, 3, none for 2; train one"):
        load_heads(tmp_path, network, exits=[1, 2])
    head = new_head(Kind.BLOCK, network)
    for layer in (0, 4):
        with pytest.raises(InputError, match=f"at layer 1 to 3, not {layer}"):
            attach(network, {layer: head})
    with pytest.raises(InputError, match="network tiny needs"):
        attach(tiny(hidden=40), {1: head})
    with pytest.raises(InputError, match="one kind"):
        save_heads(tmp_path, network, {1: head, 2: new_head(Kind.ADAPTER, network)})
    with torch.no_grad():
        head.layer.down.weight[0, 0] = 1e6
    with pytest.raises(ValueError, match="not finite"):
        save_heads(tmp_path / "new", network, {1: head})
    assert not (tmp_path / "new").exists()
