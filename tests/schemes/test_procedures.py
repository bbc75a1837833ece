"""Functions on several tensors: what they keep, what they break, and what the libraries compute."""

from __future__ import annotations

import inspect
import itertools
import warnings
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from real_models.shim import stand_in_for_torchvision
from torch import Tensor, nn

from symbreak import schemes
from symbreak.errors import SchemeError
from symbreak.schemes import Place, parse
from symbreak.schemes.catalogue import PROCEDURES
from symbreak.schemes.notation import page


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed))


def test_every_procedure_has_its_article_and_is_no_scheme() -> None:
    for name, function in PROCEDURES.items():
        text = inspect.getdoc(function) or ""
        assert getattr(schemes, name) is function
        assert page(name).endswith(text)
        for part in ("\nArgs:\n", "\nExample:\n", "\nSource: "):
            assert part in text
        for argument in inspect.signature(function).parameters:
            assert f"    {argument}: " in text, (name, argument)
        with pytest.raises(SchemeError, match=f"{name} is a function on tensors, not a scheme"):
            parse(name)


# ---- adapters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("make", [schemes.pissa, schemes.olora])
def test_factors_and_residual_are_the_weight(make: object, dtype: torch.dtype) -> None:
    weight = randn(20, 12).to(dtype)
    made = make(weight, 5, scale=0.25)  # type: ignore[operator]
    assert made.A.shape == (5, 12)
    assert made.B.shape == (20, 5)
    whole = made.residual.double() + 0.25 * made.B.double() @ made.A.double()
    tolerance = 2 * torch.finfo(dtype).eps * float(weight.abs().max())
    assert float((whole - weight.double()).abs().max()) <= tolerance
    assert made.A.dtype == made.B.dtype == made.residual.dtype == dtype


def test_pissa_takes_the_largest_part() -> None:
    weight = randn(20, 12).double()
    made = schemes.pissa(weight, 5, scale=0.25)
    singular = torch.linalg.svdvals(weight)
    assert torch.allclose(torch.linalg.svdvals(made.residual)[:7], singular[5:])
    assert torch.allclose(made.A @ made.A.T, torch.diag(singular[:5] / 0.25), atol=1e-9)
    assert torch.allclose(made.B.T @ made.B, torch.diag(singular[:5] / 0.25), atol=1e-9)


@pytest.fixture
def peft() -> ModuleType:
    """The library, where it is installed; importing it warns of its own past."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stand_in_for_torchvision()
        found: ModuleType = pytest.importorskip("peft")
        return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pissa", "olora"])
def test_factors_are_those_of_peft(peft: ModuleType, kind: str) -> None:
    linear = nn.Linear(12, 20)
    weight = linear.weight.detach().clone()
    config = peft.LoraConfig(r=5, lora_alpha=10, target_modules=["0"], init_lora_weights=kind)
    layer = peft.get_peft_model(nn.Sequential(linear), config).base_model.model[0]
    made = PROCEDURES[kind](weight, 5, scale=2.0)
    theirs = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    assert torch.allclose(made.B @ made.A, (theirs[1] @ theirs[0]).detach(), atol=1e-5)
    assert torch.allclose(made.residual, layer.base_layer.weight.detach(), atol=1e-5)
    signs = torch.sign((made.A * theirs[0].detach()).sum(1))  # each direction's sign is free
    assert torch.allclose(made.A * signs[:, None], theirs[0].detach(), atol=1e-5)


@pytest.mark.slow
def test_lora_is_pefts(peft: ModuleType) -> None:
    config = peft.LoraConfig(r=8, target_modules=["0"])
    with torch.random.fork_rng():
        torch.manual_seed(3)
        layer = peft.get_peft_model(nn.Sequential(nn.Linear(64, 20)), config).base_model.model[0]
    drawn = layer.lora_A["default"].weight.detach()
    ours = schemes.lora().moments(place=Place(role="adapter_in", shape=(8, 64)))
    assert float(drawn.std()) == pytest.approx(ours.std, rel=0.1)
    assert float(drawn.abs().max()) <= 1 / 8
    assert not layer.lora_B["default"].weight.any()


# ---- attention ----------------------------------------------------------------------------------------------------


def test_mimetic_products_are_what_they_say() -> None:
    width, heads = 64, 4
    made = schemes.mimetic(width, heads, generator=generator())
    product = (made.out @ made.value).double()
    noise = product + 0.4 * torch.eye(width)
    assert float(noise.std()) == pytest.approx(0.4 / 8, rel=0.05)
    assert float(product.diagonal().mean()) == pytest.approx(-0.4, abs=0.02)
    for q, k in zip(made.query.chunk(heads), made.key.chunk(heads), strict=True):
        assert q.shape == (16, width)
        scores = q.T @ k
        assert torch.linalg.matrix_rank(scores) == 16
        assert float(scores.diagonal().mean()) > 0.15
        assert torch.allclose(q @ q.T, k @ k.T, atol=1e-4)  # both have the root of the singular values
    assert len({tuple(q[0].tolist()) for q in made.query.chunk(heads)}) == heads
    assert made.fused.shape == (192, 64)
    one = schemes.mimetic(width, 1, generator=generator(), query_key=(0.0, 0.7), value_out=(0.0, 0.4))
    assert torch.allclose(one.query.T @ one.key, 0.7 * torch.eye(width), atol=1e-5)
    assert torch.allclose(one.out @ one.value, 0.4 * torch.eye(width), atol=1e-5)


# ---- growth -------------------------------------------------------------------------------------------------------


def spread(made: schemes.Wider, x: Tensor, y: Tensor, *, steps: int) -> list[float]:
    """Largest distance between copies of one unit after each step of SGD on a two-layer tanh net."""
    first, second = (w.double().clone().requires_grad_() for w in (made.incoming, made.outgoing))
    apart = []
    for _ in range(steps):
        loss = ((x @ first.T).tanh() @ second.T - y).square().mean()
        gradients = torch.autograd.grad(loss, (first, second))
        with torch.no_grad():
            first -= 0.1 * gradients[0]
            second -= 0.1 * gradients[1]
        classes = [[j for j, g in enumerate(made.copied) if g == unit] for unit in set(made.copied)]
        gaps = [float((first[a] - first[b]).detach().abs().max()) for c in classes for a, b in itertools.pairwise(c)]
        apart.append(min(gaps))
    return apart


@pytest.mark.parametrize("split", ["unequal", "equal"])
def test_wider_nets_compute_the_same_and_the_split_decides_whether_copies_part(split: str) -> None:
    incoming, bias, outgoing = randn(5, 3), randn(5, seed=1), randn(2, 5, seed=2)
    made = schemes.net2wider(incoming, bias, outgoing, 9, generator=generator(3), split=split)  # type: ignore[arg-type]
    x = randn(40, 3, seed=4)
    before = (x @ incoming.T + bias).tanh() @ outgoing.T
    assert made.bias is not None
    after = (x @ made.incoming.T + made.bias).tanh() @ made.outgoing.T
    assert torch.allclose(before, after, atol=1e-5)
    assert made.copied[:5] == (0, 1, 2, 3, 4)
    assert sorted(len(c) for c in made.tied) == ([] if split == "unequal" else sorted(
        made.copied.count(unit) for unit in range(5) if made.copied.count(unit) > 1
    ))  # fmt: skip
    apart = spread(made, x.double(), randn(40, 2, seed=5).double(), steps=20)
    assert (apart[0] > 1e-6) == (split == "unequal")
    assert max(apart) < 1e-12 or split == "unequal"


def test_a_wider_convolution_with_norm_and_flatten_computes_the_same() -> None:
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 9, 3)).eval()
    norm: nn.BatchNorm2d = net[1]  # type: ignore[assignment]
    with torch.no_grad():
        for n, tensor in enumerate((norm.weight, norm.bias, norm.running_mean, norm.running_var)):
            tensor.copy_(1 + 0.3 * randn(4, seed=n))  # type: ignore[union-attr]
    beside = [norm.weight, norm.bias, norm.running_mean, norm.running_var]
    made = schemes.net2wider(net[0].weight, net[0].bias, net[4].weight, 7, generator=generator(), beside=beside)  # type: ignore[arg-type]
    wide = nn.Sequential(nn.Conv2d(2, 7, 3), nn.BatchNorm2d(7), nn.ReLU(), nn.Flatten(), nn.Linear(7 * 9, 3)).eval()
    state = dict(zip(
        ["0.weight", "0.bias", "4.weight", "1.weight", "1.bias", "1.running_mean", "1.running_var"],
        [made.incoming, made.bias, made.outgoing, *made.beside], strict=True,
    ))  # fmt: skip
    wide.load_state_dict({**state, "4.bias": net[4].bias, "1.num_batches_tracked": torch.tensor(0)})
    x = randn(6, 2, 5, 5, seed=9)
    assert torch.allclose(net(x), wide(x), atol=1e-5)


def test_units_with_nothing_to_share_are_told() -> None:
    outgoing = randn(2, 3)
    outgoing[:, 1] = 0
    made = schemes.net2wider(randn(3, 4), None, outgoing, 40, generator=generator())
    assert made.tied == (tuple(j for j, unit in enumerate(made.copied) if unit == 1),)


@given(st.integers(1, 6), st.integers(0, 6), st.integers(1, 4), st.integers(0, 100))
@settings(deadline=None, max_examples=30)
def test_shares_sum_to_one(n: int, more: int, s: int, seed: int) -> None:
    outgoing = randn(3, n * s, 2, seed=seed)
    made = schemes.net2wider(randn(n, 2, seed=seed), None, outgoing, n + more, generator=generator(seed))
    summed = torch.zeros(3, n, s, 2).index_add_(
        1, torch.tensor(made.copied), made.outgoing.reshape(3, n + more, s, 2)
    )  # fmt: skip
    assert torch.allclose(summed.reshape(outgoing.shape), outgoing, atol=1e-5)


def test_a_deeper_net_computes_the_same() -> None:
    x = randn(4, 6)
    weight, bias = schemes.net2deeper(6)
    assert torch.equal((x.relu() @ weight.T + bias).relu(), x.relu())
    image = randn(2, 6, 5, 5)
    kernel, bias = schemes.net2deeper(6, kernel=(3, 3))
    assert torch.equal(nn.functional.conv2d(image.relu(), kernel, bias, padding=1).relu(), image.relu())
    for phi in ("relu", "relu6", "hardtanh", "identity"):
        schemes.net2deeper(2, phi)
    for phi in ("tanh", "gelu", "leaky_relu", "softshrink"):
        with pytest.raises(SchemeError, match="applied twice is not itself"):
            schemes.net2deeper(2, phi)


@given(st.integers(1, 30), st.integers(1, 30))
@settings(deadline=None)
def test_selected_slices_are_distinct_in_order_and_in_range(a: int, b: int) -> None:
    small, large = sorted((a, b))
    chosen = schemes.weight_selection(torch.arange(float(large)), (small,)).tolist()
    assert chosen == sorted(set(chosen))
    if large % small == 0:  # the authors' rule
        assert chosen == list(range(0, large, large // small))


def test_selection_is_consistent_along_every_axis() -> None:
    teacher = randn(12, 9)
    rows, columns = [0, 2, 4, 7, 9], [0, 2, 4, 6]
    index = torch.arange(12.0)
    assert schemes.weight_selection(index, (5,)).tolist() == rows
    assert torch.equal(schemes.weight_selection(teacher, (5, 4)), teacher[rows][:, [0, 2, 4, 6]])
    assert columns == schemes.weight_selection(torch.arange(9.0), (4,)).tolist()


def test_shrink_and_perturb() -> None:
    weight = randn(50, 40)
    made = schemes.shrink_perturb(weight, schemes.lecun_normal(), generator=generator(1))
    fresh = schemes.lecun_normal().draw((50, 40), generator=generator(1))
    assert torch.allclose(made, 0.4 * weight + 0.1 * fresh, atol=1e-6)


def test_upcycled_experts_are_copies_unless_noise_tells_them_apart() -> None:
    dense = randn(30, 20)
    equal = schemes.upcycled(dense, 4, generator=generator())
    assert all(torch.equal(expert, dense) for expert in equal)
    noisy = schemes.upcycled(dense, 4, generator=generator(), noise=0.05)
    size = float((noisy - dense).square().mean().sqrt() / dense.square().mean().sqrt())
    assert size == pytest.approx(0.05, rel=0.05)
    constant = schemes.upcycled(torch.ones(5, 5), 2, generator=generator(), noise=0.01)
    assert not torch.equal(constant[0], constant[1])  # the noise is not relative to a spread that is zero
    assert schemes.upcycled(dense.bfloat16(), 2, generator=generator(), noise=0.1).dtype == torch.bfloat16
    with pytest.raises(SchemeError, match="all zero is no noise"):
        schemes.upcycled(torch.zeros(5, 5), 2, generator=generator(), noise=0.01)


def test_drop_upcycling_redraws_the_same_hidden_units_of_all_three_weights() -> None:
    up, gate, down = 1 + 0.1 * randn(40, 12), randn(40, 12, seed=1), randn(10, 40, seed=2)
    ups, downs, gates = schemes.drop_upcycled(up, down, 6, generator=generator(), gate=gate)
    assert gates is not None
    redrawn = (ups != up).any(2)  # [e, h]
    assert redrawn.sum(1).tolist() == [20] * 6
    assert torch.equal(redrawn, (gates != gate).any(2))
    assert torch.equal(redrawn, (downs != down).any(1))
    assert len({tuple(row.tolist()) for row in redrawn}) == 6
    assert float(ups[redrawn].mean()) == pytest.approx(1, abs=0.02)
    assert float(ups[redrawn].std()) == pytest.approx(0.1, rel=0.1)
    kept, _, _ = schemes.drop_upcycled(up, down, 2, generator=generator(), ratio=0.0)
    assert torch.equal(kept[1], up)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: schemes.pissa(torch.ones(3), 1), r"expected a weight \[out, in\] with values"),
        (lambda: schemes.pissa(torch.ones(3, 4), 4), "rank=4: expected a whole number from 1 to 3"),
        (lambda: schemes.olora(torch.ones(3, 4, device="meta"), 2), "with values"),
        (lambda: schemes.mimetic(10, 3, generator=generator()), "heads=3: expected a divisor of width=10"),
        (lambda: schemes.net2wider(randn(4, 2), None, randn(1, 4), 3, generator=generator()), "expected 4 units"),
        (lambda: schemes.net2wider(randn(4, 2), None, randn(1, 5), 6, generator=generator()), "do not read 4 units"),
        (lambda: schemes.net2wider(randn(4, 2), randn(3), randn(1, 4), 6, generator=generator()), r"expected \(4,\)"),
        (lambda: schemes.net2wider(randn(4, 2), None, randn(1, 4), 6, generator=generator(), split="e"), "split='e'"),
        (lambda: schemes.net2deeper(3, kernel=(2,)), "expected odd sizes"),
        (lambda: schemes.weight_selection(randn(4, 4), (5, 4)), "has no slice of shape"),
        (lambda: schemes.weight_selection(randn(4, 4), (4,)), "has no slice of shape"),
        (lambda: schemes.shrink_perturb(randn(3), schemes.zeros(), generator=generator(), shrink=2), "from 0 to 1"),
        (lambda: schemes.upcycled(randn(3, 3), 0, generator=generator()), "experts=0"),
        (lambda: schemes.drop_upcycled(randn(4, 3), randn(2, 5), 2, generator=generator()), "got shapes"),
        (lambda: schemes.drop_upcycled(randn(4, 3), randn(2, 4), 2, generator=generator(), ratio=2), "from 0 to 1"),
    ],
)  # fmt: skip
def test_bad_input(call: object, message: str) -> None:
    with pytest.raises(SchemeError, match=message):
        call()  # type: ignore[operator]
