"""Attention with one head a class: every way in which nn.MultiheadAttention is called, and Transformer layers."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import symbreak as sb
from symbreak.symmetry.quotient import Quotient

from .test_quotient_groups import Attentive, Draw, attentive, side_by_side


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


class Called(nn.Module):
    """A layer of attention alone, called with what a test says."""

    def __init__(self, mix: nn.MultiheadAttention, **knobs: Any) -> None:
        super().__init__()
        self.mix, self.knobs = mix, knobs

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        found: tuple[Tensor, Tensor | None] = self.mix(x, x, x, **self.knobs)
        return found


HIDDEN = torch.tensor([[False, False, True], [False, True, False], [False, False, False], [True, False, False]])
LATER = torch.triu(torch.ones(3, 3, dtype=torch.bool), 1)
CALLS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {"need_weights": False}),
    "weights": ({}, {"need_weights": True}),
    "weights of every head": ({}, {"need_weights": True, "average_attn_weights": False}),
    "positions first": ({"batch_first": False}, {"need_weights": True}),
    "no bias": ({"bias": False}, {"need_weights": False}),
    "learned key": ({"add_bias_kv": True}, {"need_weights": False}),
    "zero key": ({"add_zero_attn": True}, {"need_weights": True}),
    "padding": ({}, {"need_weights": False, "key_padding_mask": HIDDEN}),
    "causal": ({}, {"need_weights": False, "attn_mask": LATER, "is_causal": True}),
    "all masks": (
        {"add_bias_kv": True, "add_zero_attn": True},
        {"need_weights": True, "attn_mask": torch.randn(3, 3).double(), "key_padding_mask": HIDDEN.double() * -9},
    ),
}


def tied(knobs: dict[str, Any], heads: int = 3) -> nn.MultiheadAttention:
    """Three heads of four units, two of them alike, with two classes of units in each."""
    d = Draw(1)
    mix = nn.MultiheadAttention(12, heads, **{"batch_first": True, **knobs}).double()
    at = torch.tensor([0, 0, 1, 1, 2, 3, 3, 2, 1, 0, 1, 0])
    rows = torch.cat([at, at + 4, at + 8])
    filled = [(mix.in_proj_weight, rows), (mix.out_proj.weight, None, at)]
    filled += [(mix.in_proj_bias, rows)] if mix.in_proj_bias is not None else []
    filled += [(mix.bias_k[0, 0], at), (mix.bias_v[0, 0], at)] if mix.bias_k is not None else []
    for tensor, *axes in filled:
        d.fill(tensor, *axes)
    return mix


@pytest.mark.parametrize("name", CALLS)
def test_every_way_to_call_attention(name: str) -> None:
    made, called = CALLS[name]
    net = Called(tied(made), **called)
    x = torch.randn(4, 3, 12, dtype=torch.float64)
    if made.get("batch_first") is False:
        x = x.transpose(0, 1)
    q = sb.quotient(net, batch=x)
    assert not q.kept
    rows = 18 if name == "weights of every head" else 12  # an output for each head tells them apart
    assert q.model.mix.in_proj_weight.shape == (rows, 12)
    for one, other in zip(net(x), q(x), strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.allclose(one, other, atol=1e-14)


class Crossed(nn.Module):
    """Keys and values of other widths than the queries, each with a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.MultiheadAttention(12, 3, kdim=5, vdim=7, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.mix(x, x[..., :5], x[..., 5:], need_weights=False)[0]
        return found


def test_keys_and_values_of_their_own_widths() -> None:
    d, net, x = Draw(1), Crossed().double(), torch.randn(4, 3, 12, dtype=torch.float64)
    at = torch.tensor([0, 0, 1, 1, 2, 3, 3, 2, 1, 0, 1, 0])
    rows = torch.cat([at, at + 4, at + 8])
    weights = [net.mix.q_proj_weight, net.mix.k_proj_weight, net.mix.v_proj_weight]
    for tensor, *axes in (
        *((w, at) for w in weights),
        (net.mix.in_proj_bias, rows),
        (net.mix.out_proj.weight, None, at),
    ):
        d.fill(tensor, *axes, scale=0.3)
    q = sb.quotient(net, batch=x)
    assert [w.shape for w in (q.model.mix.q_proj_weight, q.model.mix.k_proj_weight, q.model.mix.v_proj_weight)] == [
        (4, 12), (4, 5), (4, 7)]  # fmt: skip
    side_by_side(net, q, x, "adamw", 40)


def test_one_sample_without_a_batch() -> None:
    net, x = Called(tied({}), need_weights=True), torch.randn(4, 3, 12, dtype=torch.float64)
    q = sb.quotient(net, batch=x)
    assert all(torch.allclose(one, other, atol=1e-14) for one, other in zip(net(x[0]), q(x[0]), strict=True))
    assert q(x[0])[0].shape == (3, 12)


def test_a_mask_for_each_head() -> None:
    """Masks of equal heads may differ from batch to batch: heads stay, and the units inside them do not."""
    mask = torch.randn(4 * 3, 3, 3, dtype=torch.float64)
    net, x = Called(tied({}), need_weights=False, attn_mask=mask), torch.randn(4, 3, 12, dtype=torch.float64)
    q = sb.quotient(net, batch=x)
    assert torch.allclose(net(x)[0], q(x)[0], atol=1e-14)


@pytest.mark.parametrize("knobs", [{"bias": True}, {"add_bias_kv": True}, {"batch_first": False}])
def test_training_with_biases(knobs: dict[str, bool]) -> None:
    net, x, widths = attentive(3, **({"bias": True} | knobs))
    net.knobs["need_weights"] = True
    q = sb.quotient(net, batch=x)
    assert q.widths == widths
    side_by_side(net, q, x, "adamw", 60)


def test_heads_are_left_out_alike_on_both_sides() -> None:
    """Dropout of attention tells heads apart; the units inside them fold, and the same weights are dropped."""
    net, x, _ = attentive(2)
    net.mix.dropout = 0.5
    q = sb.quotient(net, batch=x)
    assert len(q.model.mix.class_counts) == net.mix.num_heads
    assert q.keeps("sgd")
    for need in (False, True):
        net.knobs["need_weights"] = q.model.knobs["need_weights"] = need
        found = []
        for model in (net, q.model):
            torch.manual_seed(5)
            found.append(model(x))
        assert torch.allclose(*found, atol=1e-13)
        torch.manual_seed(6)
        assert not torch.allclose(found[0], net(x))


def transformer(seed: int, layer: str) -> tuple[nn.Module, Tensor]:
    """A Transformer layer all of whose units, heads and stream have classes."""
    d = Draw(seed)
    values = d.grouped(2, 3)[0]
    e, f = d.plain(6, 3), d.plain(8, 3)  # a norm over two classes has but two values
    n = int(values.max()) + 1
    rows = torch.cat([values, values + n, values + 2 * n])
    knobs = {"dropout": 0.0, "batch_first": True}
    made: Any = {"encoder": nn.TransformerEncoderLayer, "decoder": nn.TransformerDecoderLayer}[layer](6, 2, 8, **knobs)
    net = Block(made).double()
    filled = [(net.read.weight, e), (net.read.bias, e), (net.write.weight, None, e), (made.linear1.weight, f, e),
              (made.linear1.bias, f), (made.linear2.weight, e, f), (made.linear2.bias, e)]  # fmt: skip
    for m in net.modules():
        if isinstance(m, nn.LayerNorm):
            filled += [(m.weight, e), (m.bias, e)]
        if isinstance(m, nn.MultiheadAttention):
            filled += [(m.in_proj_weight, rows, e), (m.in_proj_bias, rows), (m.out_proj.weight, e, values),
                       (m.out_proj.bias, e)]  # fmt: skip
    for tensor, *axes in filled:
        d.fill(tensor, *axes, scale=0.7)
    return net, torch.randn(4, 3, 2, generator=d.g, dtype=torch.float64)


class Block(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.read, self.layer, self.write = nn.Linear(2, 6), layer, nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.read(x)
        decoder = isinstance(self.layer, nn.TransformerDecoderLayer)
        found: Tensor = self.write(self.layer(h, torch.tanh(h).flip(1)) if decoder else self.layer(h))
        return found


@pytest.mark.parametrize("layer", ["encoder", "decoder"])
@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
def test_a_transformer_layer(layer: str, optimizer: str) -> None:
    net, x = transformer(0, layer)
    q = sb.quotient(net, batch=x)
    assert not q.kept
    assert q.widths["read"] == (3, 6)
    assert q.widths["layer.linear1"] == (3, 8)
    side_by_side(net, q, x, optimizer, 200)


def test_the_fast_path_of_evaluation_is_not_taken_around_it() -> None:
    net, x = transformer(0, "encoder")
    net.eval()
    q = sb.quotient(net, batch=x)
    assert q.widths["read"] == (3, 6)
    with torch.no_grad():
        assert torch.allclose(net(x), q(x), atol=1e-13)


def test_copies_and_pickles() -> None:
    net, x = transformer(0, "encoder")
    q = sb.quotient(net, batch=x)
    for again in (copy.deepcopy(q.model), pickle.loads(pickle.dumps(q.model))):
        assert torch.equal(again(x), q(x))
    assert q.model.float()(x.float()).dtype == torch.float32


def test_heads_of_one_number_are_one_head_of_one_unit() -> None:
    net = Attentive(12, 3, bias=True)
    for p in net.parameters():
        nn.init.constant_(p, 0.05)
    q: Quotient = sb.quotient(net, batch=torch.randn(2, 4, 3))
    assert q.model.mix.in_proj_weight.shape == (3, 1)
    assert str(q).splitlines()[0] == f"Attentive: {q.size[0]} of {q.size[1]} parameters"
    assert q.size[0] == 3 + 1 + 3 * 1 + 3 + 1 + 1 + 2 + 2
