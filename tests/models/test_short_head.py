"""Rankings of tokens, and the LM head of the most frequent ones."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import pytest
import torch

from hispec_sim.errors import InputError
from hispec_sim.models import layouts
from hispec_sim.models.cache import CachedNetwork, Piece
from hispec_sim.models.config import LlamaConfig
from hispec_sim.models.exits import Kind, attach, new_head
from hispec_sim.models.layouts import lay_out_for_cpu
from hispec_sim.models.linear import Layout, PackedLinear
from hispec_sim.models.llama import Llama
from hispec_sim.models.loading import load_model
from hispec_sim.models.ranking import RANKING, TokenRanking, count_ranking, read_ranking, write_ranking
from hispec_sim.models.shortlist import ShortHead
from hispec_sim.networks import NetworkSpec

sys.path.append(str(Path(__file__).parents[1] / "execute"))
from tiny_networks import VOCABULARY, networks

torch.set_num_threads(1)


def test_counting_by_hand() -> None:
    """Most frequent first; the equally frequent and the unseen by their ids."""
    assert count_ranking([4, 2, 4, 5, 2, 4], 6, "six tokens") == TokenRanking("six tokens", 6, (4, 2, 5, 0, 1, 3))
    with pytest.raises(InputError, match=r"nothing\.txt holds no tokens"):
        count_ranking([], 6, "nothing.txt")
    with pytest.raises(InputError, match=r"pads\.txt holds the token 6, but the network has only 6 tokens"):
        count_ranking([4, 6, 2], 6, "pads.txt")


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    assert read_ranking(tmp_path, 6) is None
    ranking = count_ranking([4, 2, 4], 6, "three tokens")
    write_ranking(ranking, tmp_path)
    assert read_ranking(tmp_path, 6) == ranking
    assert [path.name for path in tmp_path.iterdir()] == [RANKING]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"counted": "x", "tok', "is not valid JSON"),
        ("[1, 2]", "does not hold a JSON object"),
        ({"ids": [0, 6]}, "from 0 to 5, not 6"),
        ({"ids": [0, -1]}, "from 0 to 5, not -1"),
        ({"ids": [0, True]}, "from 0 to 5, not True"),
        ({"ids": [0, 1.0]}, "from 0 to 5, not 1.0"),
        ({"ids": [3, 1, 3]}, "but 3 stands there twice"),
        ({"ids": []}, "must be a list of token ids"),
        ({"ids": "012"}, "must be a list of token ids"),
        ({"counted": 3}, "counted must be a text"),
        ({"tokens": "many"}, "tokens a number"),
    ],
)
def test_damaged_files(tmp_path: Path, content: str | dict[str, object], message: str) -> None:
    """One sentence that names the file."""
    whole: dict[str, object] = {"counted": "x", "tokens": 3, "ids": [2, 0, 1]}
    text = content if isinstance(content, str) else json.dumps(whole | content)
    (tmp_path / RANKING).write_text(text)
    with pytest.raises(InputError, match=message) as error:
        read_ranking(tmp_path, 6)
    assert RANKING in str(error.value)


def wide(*, tied: bool) -> Llama:
    """One layer, and a head that is packed whole and for half of its tokens, but not for ten."""
    torch.manual_seed(4)
    network = Llama(LlamaConfig(NetworkSpec("wide", 1, 256, 4, 2, 64, 256, 2000, tied), 64)).eval()
    network.token_ranking = count_ranking(torch.randint(2000, (5000,)).numpy(), 2000, "random tokens")
    return network


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("size", [10, 1000, 2000])
@torch.inference_mode()
def test_logits_are_those_of_the_whole_head(tied: bool, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the shortlist; minus infinity elsewhere; packed where the whole head is and it is large enough."""
    monkeypatch.setattr(layouts, "fastest_layout", lambda weights: Layout.PACKED)
    plain, network = wide(tied=tied), lay_out_for_cpu(wide(tied=tied))
    assert plain.token_ranking is not None
    x = torch.randn(3, 256)
    for short in (ShortHead(plain, size), ShortHead(network, size)):
        logits, whole = short(x), plain.read_out(x)
        inside = torch.zeros(2000, dtype=torch.bool)
        inside[list(plain.token_ranking.ids[:size])] = True
        assert inside.sum() == size
        torch.testing.assert_close(logits[:, inside], whole[:, inside], rtol=1e-4, atol=1e-4)
        assert (logits[:, ~inside] == -torch.inf).all()
    assert isinstance(ShortHead(network, size)._head, PackedLinear) == (size > 10 and layouts._can_pack())


@pytest.mark.parametrize("kind", [None, *Kind])
def test_every_way_to_read_an_exit_out_has_the_shortlist(kind: Kind | None) -> None:
    """With a head of its own or none, the exit's logits over the cache are the whole network's, cut to the shortlist;
    the exit above is not cut."""
    network = copy.deepcopy(networks()["big"])
    if kind is not None:
        attach(network, {2: (head := new_head(kind, network))})
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    cached = CachedNetwork(network, slots=1, max_tokens=8, exits=[2, 4], shortlists={2: 4})
    ids = [3, 1, 4]
    short = cached.forward(0, 2, [Piece(0, 0, 3, 3, ids)])
    full = cached.forward(2, 4, [Piece(0, 0, 3, 3, [])])
    assert short is not None
    assert full is not None
    with torch.inference_mode():
        expected = network(torch.tensor([ids]), 2)[0]
    inside = [3, 7, 11, 20]  # what the networks' ranking was counted from
    torch.testing.assert_close(short[:, inside], expected[:, inside], rtol=1e-4, atol=1e-4)
    assert short.isfinite().sum() == 3 * len(inside)
    assert full.isfinite().all()


def test_what_a_network_cannot_read_out() -> None:
    """No ranking: both cures; more than is ranked."""
    network = copy.deepcopy(networks()["big"])
    with pytest.raises(InputError, match=f"shortlist of 25 tokens is asked for, but only {VOCABULARY} tokens"):
        ShortHead(network, 25)
    network.token_ranking = None
    with pytest.raises(InputError, match=r"token_ranking\.json; put one into the model's folder.*--shortlist-text"):
        ShortHead(network, 4)


def test_the_shipped_model_knows_its_tokens() -> None:
    """All of them, and a quarter of them makes up most of a text."""
    model = load_model("reference")
    ranking = model.network.token_ranking
    assert ranking is not None
    assert sorted(ranking.ids) == list(range(2048))
    ids = model.tokenizer.encode("def forward(self, hidden_states):\n    return self.layer_norm(hidden_states)\n")
    assert sum(token in ranking.ids[:512] for token in ids) > 0.7 * len(ids)
