"""How certain zeros pass through one operation: every rule against the operation itself, on random numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from symbreak.probe import zeros
from symbreak.probe.masks import Masks
from symbreak.probe.zero_rules import RULES, Call

aten = torch.ops.aten
DRAWS, SEEDS = 4, 6


@pytest.fixture(autouse=True, scope="module")
def default_dtype() -> Iterator[None]:
    """Put back: soundness is looked at in float64."""
    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)


# ---- every rule against its operation --------------------------------------------------------------------------------

Program = Callable[..., Any]


def ints(high: int, *shape: int) -> Tensor:
    """Indices that are data: drawn anew in every run."""
    return torch.randint(high, shape)


def eye() -> Tensor:
    """Indices that the code states: the same in every run."""
    return torch.arange(3)


PROGRAMS: tuple[tuple[Program, tuple[tuple[int, ...], ...]], ...] = (
    *((f, ((4, 5),)) for f in (
        torch.relu, torch.tanh, torch.sin, torch.sinh, torch.asinh, torch.tan, torch.erf, torch.expm1,
        torch.neg, torch.abs, torch.sign, torch.sgn, F.gelu, F.silu, F.mish,
        F.leaky_relu, F.elu, F.hardswish, F.hardshrink, F.softshrink, torch.round, torch.floor, torch.ceil,
        torch.trunc, torch.frac, torch.nan_to_num, F.selu, F.softsign, F.relu6, F.hardtanh, F.tanhshrink, F.logsigmoid,
        torch.sigmoid, F.softplus, F.hardsigmoid, torch.exp, torch.cos,
        lambda x: torch.asin(x / 9), lambda x: torch.atan(x), lambda x: torch.atanh(x / 9),
        lambda x: torch.log1p(x.square()), lambda x: x.square().sqrt(), lambda x: aten.alias_copy(x),
        lambda x: torch.fmod(x, 2.0), lambda x: torch.remainder(x, 2.0),
        lambda x: x + 1, lambda x: x + 0, lambda x: 0 * x, lambda x: 1 - x, lambda x: x.pow(2), lambda x: x.pow(3.0),
        lambda x: x.pow(0), lambda x: x.clamp(-1, 1), lambda x: x.clamp(0.5, 1), lambda x: x.clamp_min(-1),
        lambda x: x.clamp_min(0.5), lambda x: x.clamp_max(1), lambda x: F.threshold(x, 0.1, 0.0),
        lambda x: F.threshold(x, -0.1, 1.0), lambda x: F.threshold(x, -0.1, 0.0),
        lambda x: x.softmax(1), lambda x: x.log_softmax(0), lambda x: x[:, :1].softmax(1), lambda x: x.logsumexp(1),
        lambda x: x.sum(), lambda x: x.sum(1), lambda x: x.mean(0, keepdim=True), lambda x: x.nansum(1),
        lambda x: x.amax(1), lambda x: x.amin(0), lambda x: x.max(1).values, lambda x: x.min(0).values,
        lambda x: x.max(), lambda x: x.norm(), lambda x: torch.linalg.vector_norm(x, 2, 1), lambda x: x.cumsum(1),
        lambda x: x.var(1), lambda x: x.topk(2, 1).values, lambda x: x.sort(0).values, lambda x: x.prod(1),
        lambda x: x.flip(0), lambda x: x.roll(1, 1), lambda x: x.repeat(2, 1), lambda x: x.tril(),
        lambda x: x.triu(1),
        lambda x: x.t().contiguous(), lambda x: x.to(torch.float32), lambda x: x.clone(), lambda x: x.unfold(1, 2, 1),
        lambda x: torch.diag_embed(x), lambda x: x.diagonal(), lambda x: x[1], lambda x: x[:, 1:3],
        lambda x: x[1:, ::2],
        lambda x: F.pad(x, (1, 1)), lambda x: F.pad(x, (1, 1), value=1.0), lambda x: x.expand(3, 4, 5).sum(0),
        lambda x: aten.view_copy(x, [20]), lambda x: aten.expand_copy(x, [2, 4, 5]),
        lambda x: aten.permute_copy(x, [1, 0]), lambda x: aten.transpose_copy(x, 0, 1),
        lambda x: aten._reshape_copy(x, [5, 4]),
        lambda x: torch.index_select(x, 0, eye()), lambda x: torch.index_select(x, 0, ints(4, 3)),
        lambda x: x.gather(1, eye()[:, None]), lambda x: x.gather(1, ints(5, 4, 2)),
        lambda x: x[eye()], lambda x: x[ints(4, 6)], lambda x: x[:, ints(5, 2)], lambda x: x[eye(), eye()],
        lambda x: x[torch.tensor([True, False, True, True])],
        lambda x: F.embedding(eye(), x), lambda x: F.embedding(ints(4, 3, 2), x),
        lambda x: F.embedding(ints(4, 3, 2), x, padding_idx=0), lambda x: F.embedding(torch.zeros(3).long(), x),
        lambda x: F.glu(x[:, :4], 1), lambda x: x + torch.zeros(4, 5), lambda x: x * torch.full((5,), 0.0),
        lambda x: x + torch.zeros_like(x) + x.new_zeros(5), lambda x: x * torch.full_like(x, 0.0),
        lambda x: x * x.new_full((4, 5), 0.0), lambda x: x * torch.scalar_tensor(0.0),
        lambda x: x.clone().zero_() + x, lambda x: x.clone().fill_(0.0) * x, lambda x: x.clone().fill_(2.0) * x,
        lambda x: x.masked_fill(torch.ones(4, 5).tril().bool(), 0.0),
        lambda x: x.masked_fill(torch.ones(4, 5).tril().bool(), -3.0),
        lambda x: x.masked_fill(torch.randn(4, 5) > 0, 0.0), lambda x: x.masked_fill(torch.randn(4, 5) > 0, 2.0),
        lambda x: F.prelu(x, torch.tensor([0.25])), lambda x: aten.slice_backward(x, [6, 5], 0, 1, 5, 1),
        lambda x: aten.unfold_backward(x[:, :, None], [4, 5], 1, 1, 1),
    )),
    *((f, ((4, 5), (4, 5))) for f in (
        torch.add, torch.sub, torch.mul, torch.maximum, torch.minimum, torch.fmax, torch.fmin, torch.rsub,
        lambda a, b: torch.add(a, b, alpha=2), lambda a, b: torch.lerp(a, b, 0.3), lambda a, b: a / (b.square() + 1),
        lambda a, b: torch.addcmul(a, a, b), lambda a, b: torch.addcdiv(a, a, b.square() + 1),
        lambda a, b: torch.where(torch.ones(4, 5).tril().bool(), a, b), lambda a, b: torch.where(a > b, a, b),
        lambda a, b: torch.cat([a, b], 1), lambda a, b: torch.stack([a, b]), lambda a, b: a @ b.t(),
        lambda a, b: torch.dot(a[0], b[0]), lambda a, b: torch.vdot(a[0], b[1]), lambda a, b: torch.mv(a, b[0]),
        lambda a, b: torch.addr(a, a[:, 0], b[0]), lambda a, b: torch.addmv(a[:, 0], a, b[1]),
        lambda a, b: torch.outer(a[0], b[0]), lambda a, b: F.linear(a, b, a[0, :4]),
        lambda a, b: torch.prelu(a, b[0, :5]), lambda a, b: a.clone().copy_(b), lambda a, b: a.clone().mul_(b),
        lambda a, b: a.index_add(0, eye(), b[:3]), lambda a, b: a.index_add(0, ints(4, 4), b),
        lambda a, b: a.scatter_add(0, torch.zeros(4, 5).long(), b), lambda a, b: a.scatter_add(0, ints(4, 4, 5), b),
        lambda a, b: a.index_put((eye(),), b[:3]), lambda a, b: a.index_put((ints(4, 2),), b[:2]),
        lambda a, b: a.index_put((eye(),), b[0], accumulate=True),
        lambda a, b: aten._unsafe_index_put(a, [eye()], b[:3]),
        lambda a, b: a.clone().t().copy_(b.t()), lambda a, b: put_in_a_view(a, b),
        lambda a, b: F.rms_norm(a, (5,), b[0]),
        lambda a, b: F.layer_norm(a, (5,), b[0], b[1]), lambda a, b: F.layer_norm(a, (5,)),
        lambda a, b: F.batch_norm(a, None, None, b[0], b[1], training=True),
        lambda a, b: F.batch_norm(a, torch.zeros(5), torch.ones(5), b[0], b[1], training=True),
        lambda a, b: F.batch_norm(a, torch.zeros(5), torch.ones(5), b[0], b[1], training=False),
        lambda a, b: torch.max(a, b), lambda a, b: aten._index_put_impl_(a.clone(), [eye()], b[:3]),
        lambda a, b: F.kl_div(a, b, reduction="sum"),
        lambda a, b: (a.requires_grad, torch.cdist(a, b))[1],
    )),
    *((f, ((2, 4, 4, 4), (4, 4))) for f in (
        lambda x, w: F.group_norm(x, 2, w[0], w[1]), lambda x, w: F.avg_pool2d(x, 2), lambda x, w: F.max_pool2d(x, 2),
        lambda x, w: F.adaptive_avg_pool2d(x, 3), lambda x, w: F.adaptive_max_pool2d(x, 2),
        lambda x, w: F.interpolate(x, scale_factor=2), lambda x, w: F.interpolate(x, scale_factor=2, mode="bilinear"),
        lambda x, w: F.interpolate(x, scale_factor=2, mode="bicubic"), lambda x, w: F.unfold(x, 2),
        lambda x, w: F.fold(F.unfold(x, 2), 4, 2), lambda x, w: F.pixel_shuffle(x, 2),
        lambda x, w: F.pixel_unshuffle(x, 2),
        lambda x, w: F.pad(x, (1, 1, 1, 1), mode="reflect"), lambda x, w: F.pad(x, (1, 1, 1, 1), mode="replicate"),
        lambda x, w: F.grid_sample(x, torch.rand(2, 3, 3, 2) * 2 - 1, align_corners=False),
        lambda x, w: F.grid_sample(x, w[None, :, None, :2].expand(2, 4, 3, 2) / 9, align_corners=False),
        lambda x, w: F.conv2d(x, w[:, :, None, None]), lambda x, w: F.conv2d(x, w.reshape(1, 4, 2, 2), w[0, :1]),
        lambda x, w: F.conv2d(x, w.reshape(4, 1, 2, 2), groups=4, padding=1),
        lambda x, w: F.conv_transpose2d(x, w.reshape(4, 1, 2, 2)), lambda x, w: F.channel_shuffle(x, 2),
        lambda x, w: F.instance_norm(x, None, None, w[0], w[1]), lambda x, w: x @ w,
        lambda x, w: torch.baddbmm(x[0], x[1], x[0]),
        lambda x, w: torch.addbmm(w, x[0], x[1]),
        lambda x, w: F.scaled_dot_product_attention(x, x, x, is_causal=True),
        lambda x, w: F.scaled_dot_product_attention(x @ w, x, x), lambda x, w: aten._native_batch_norm_legit(
            x, w[0], w[1], w[2].detach().clone(), w[3].detach().clone(), True, 0.1, 1e-5)[0],
    )),
    *((f, ((2, 2, 4, 4, 4), (2,))) for f in (
        lambda x, w: F.avg_pool3d(x, 2), lambda x, w: F.max_pool3d(x, 2), lambda x, w: F.adaptive_avg_pool3d(x, 3),
        lambda x, w: F.adaptive_max_pool3d(x, 2), lambda x, w: F.interpolate(x, scale_factor=2),
        lambda x, w: F.interpolate(x, scale_factor=2, mode="trilinear"),
        lambda x, w: F.pad(x, (1,) * 6, mode="reflect"),
        lambda x, w: F.pad(x, (1,) * 6, mode="replicate"),
        lambda x, w: F.batch_norm(x, None, None, w, w, training=True),
        lambda x, w: F.grid_sample(x, torch.rand(2, 2, 2, 2, 3) * 2 - 1, align_corners=False),
    )),
    *((f, ((2, 3, 8),)) for f in (
        lambda x: F.interpolate(x, scale_factor=2), lambda x: F.interpolate(x, scale_factor=2, mode="linear"),
        lambda x: F.pad(x, (1, 1), mode="reflect"), lambda x: F.pad(x, (1, 1), mode="replicate"),
        lambda x: F.avg_pool1d(x, 2),
    )),
)  # fmt: skip


def put_in_a_view(a: Tensor, b: Tensor) -> Tensor:
    """Writes through views, and reads through others."""
    c = a.clone()
    c.t()[1:3].mul_(b.t()[1:3])
    c[0] = b[1]
    c.view(-1)[7:9] = 0.0
    return c.reshape(2, 10)


class Counting(dict[str, Any]):
    """The rules, counting how often each named a certain zero."""

    def __init__(self) -> None:
        super().__init__(RULES)
        self.zeros: Counter[str] = Counter()

    def get(self, name: str, default: Any = None) -> Any:
        rule = super().get(name)
        if rule is None:
            return default

        def counted(call: Call) -> Any:
            says = rule(call)
            masks = says if isinstance(says, tuple) else (says,)
            self.zeros[name] += any(m is not None and not bool(m.all()) for m in masks)
            return says

        return counted


def patterns(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """[shape] True where the number may be anything: all zero, some slices along an axis, or some elements."""
    kind = int(torch.randint(4, (), generator=generator))
    if kind == 0 or not shape:
        return torch.zeros(tuple(shape), dtype=torch.bool)
    if kind == 3:
        return torch.rand(tuple(shape), generator=generator) > 0.5
    axis = int(torch.randint(len(shape), (), generator=generator))
    keep = torch.rand(shape[axis], generator=generator) > 0.5
    return keep.reshape([-1 if i == axis else 1 for i in range(len(shape))]).expand(tuple(shape)).clone()


def run(program: Program, leaves: list[Tensor], weights: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """The result and the gradients, for a loss whose gradient is generic where `weights` may be anything."""
    with torch.enable_grad():
        out = program(*leaves)
        gradients: list[Tensor] = []
        if out.requires_grad:
            found = torch.autograd.grad(out, leaves, weights(out), allow_unused=True)
            gradients = [g for g in found if g is not None]
    return [out.detach(), *gradients]


def soundness(program: Program, shapes: Sequence[Sequence[int]], seed: int, rules: Any) -> None:
    """No number that is called certainly zero is another one in any of several draws."""
    torch.set_default_dtype(torch.float64)
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    may = [patterns(shape, generator) for shape in shapes]
    some = torch.rand((), generator=generator) > 0.5

    def leaves() -> list[Tensor]:
        return [(torch.randn(m.shape, dtype=torch.float64) * m).requires_grad_() for m in may]

    masks, first = Masks(), leaves()
    for leaf, mask in zip(first, may, strict=True):
        masks.put(leaf.detach(), mask)
    back: dict[str, Tensor] = {}

    def factor(out: Tensor) -> Tensor:
        if "may" not in back:
            back["may"] = patterns(out.shape, generator) if some else torch.ones(out.shape, dtype=torch.bool)
        return torch.randn(out.shape, dtype=out.dtype) * back["may"]

    def marked(out: Tensor) -> Tensor:
        weights = factor(out)
        masks.put(weights, back["may"])
        return weights

    mode = zeros.Propagation(masks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zeros, "RULES", rules)
        patch.setattr(zeros, "_refutes", lambda _t, _m: False)
        with mode.running():
            claims = [masks.may(t) for t in run(program, first, marked)]
    assert mode.refuted is None, mode.refuted
    for _ in range(DRAWS):
        for number, claim in zip(run(program, leaves(), factor), claims, strict=True):
            assert number.shape == claim.shape
            assert not bool(((number != 0) & ~claim).any()), (number, claim)


@pytest.mark.parametrize("at", range(len(PROGRAMS)))
def test_no_rule_calls_a_number_zero_that_is_none(at: int) -> None:
    program, shapes = PROGRAMS[at]
    for seed in range(SEEDS):
        soundness(program, shapes, seed, RULES)


def test_every_rule_was_asked_and_finds_zeros() -> None:
    """A rule that none of the programs reaches is not tested, and one that never finds a zero is idle."""
    counted = Counting()
    for program, shapes in PROGRAMS:
        for seed in range(SEEDS):
            soundness(program, shapes, seed, counted)
    assert [name for name in RULES if not counted.zeros[name]] == []
