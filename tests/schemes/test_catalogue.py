"""Laws that every scheme obeys, tried on all of the catalogue; then what single schemes promise."""

from __future__ import annotations

import inspect
import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from symbreak import schemes
from symbreak.errors import SchemeError
from symbreak.schemes import ALIASES, CATALOGUE, Fans, Layout, Place, Scheme, parse
from symbreak.schemes.patterns import haar

from .cases import CASES, CONV, WIDE, Case

EVERY = pytest.mark.parametrize("case", CASES, ids=str)
DTYPES = [torch.float64, torch.bfloat16, torch.float16]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(case: Case, seed: int = 0, dtype: torch.dtype | None = None) -> Tensor:
    return case.scheme.draw(case.place.shape, generator=generator(seed), place=case.place, dtype=dtype)


def test_every_scheme_is_tried() -> None:
    assert {case.scheme.name for case in CASES} == set(CATALOGUE)


# ---- laws --------------------------------------------------------------------------------------------------------


@EVERY
def test_the_notation_round_trips(case: Case) -> None:
    assert parse(repr(case.scheme)) == case.scheme
    assert hash(parse(repr(case.scheme))) == hash(case.scheme)
    assert repr(case.scheme) == case.text


def fits(weight: Tensor, mean: float, std: float) -> bool:
    """Whether sample moments lie near those promised: five standard errors of a normal sample, and one in a hundred."""
    values, n = weight.double(), weight.numel()
    off = abs(float(values.mean()) - mean)
    root = math.sqrt(float((values - mean).square().mean()))
    rounding = 1e-6 * abs(mean)
    close = abs(root - std) <= std * (0.01 + 5 / math.sqrt(2 * n)) + rounding
    return close and off <= 5 * std / math.sqrt(n) + rounding


@EVERY
def test_moments_are_those_of_the_draw(case: Case) -> None:
    promised = case.scheme.moments(place=case.place)
    weight = draw(case)
    assert fits(weight, promised.mean, promised.std)
    if promised.std > 0 and weight.numel() > 4000:  # the control: a tenth too wide is seen
        assert not fits(1.1 * weight, promised.mean, promised.std)


@EVERY
def test_same_generator_same_weights_in_every_dtype(case: Case) -> None:
    before, weight = torch.random.get_rng_state(), draw(case)
    assert torch.equal(weight, draw(case))
    for dtype in DTYPES:
        cast = draw(case, dtype=dtype)
        assert cast.dtype == dtype
        assert torch.equal(cast, weight.to(dtype))
    assert torch.equal(before, torch.random.get_rng_state())


DETERMINISTIC = {
    "zeros", "ones", "constant(0.3)", "identity", "identity(gain=0.5)", "dirac", "zero_hadamard", "lstm_forget_bias",
    "lstm_forget_bias(value=2.0)", "rezero", "rezero(alpha=0.1)", "zero_gamma", "layer_scale",
    "layer_scale(epsilon=0.001)", "hippo_legs", "mamba_decay", "prior_bias(0.01)", "prior_bias((0.2, 0.3, 0.5))",
}  # fmt: skip


@EVERY
def test_another_seed_gives_other_weights_where_chance_enters(case: Case) -> None:
    same = torch.equal(draw(case), draw(case, seed=1))
    law = case.scheme.moments(place=case.place)
    assert same == (case.text in DETERMINISTIC or law.std == 0 or case.place.role == "recurrent")


@EVERY
def test_filling_in_place_is_drawing(case: Case) -> None:
    shape, wanted = case.place.shape, draw(case)
    parameter = nn.Parameter(torch.full(shape, 7.0))
    strided = torch.full((*shape, 2), 7.0, dtype=torch.float64)[..., 0]
    for weight in (parameter, strided):
        returned = case.scheme.fill_(weight, generator=generator(), place=case.place)
        assert returned is weight
        assert torch.equal(weight.detach().float(), wanted)
    assert parameter.requires_grad


@EVERY
def test_an_empty_tensor_stays_empty(case: Case) -> None:
    assert parse(case.text).draw((0, *case.place.shape), generator=generator(), place=case.place).numel() == 0


def test_every_scheme_has_its_article() -> None:
    for name, function in CATALOGUE.items():
        text = inspect.getdoc(function) or ""
        assert function.__name__ == name
        assert getattr(schemes, name) is function
        assert "\nExample:\n" in text
        assert "\nSource: " in text
        assert len(text.splitlines()[0]) <= 130
        options = inspect.signature(function).parameters
        assert not options or "\nArgs:\n" in text
        for option in options:
            assert f"    {option}: " in text
        assert function.__annotations__["return"] == "Scheme"
    for alias, full in ALIASES.items():
        assert full in CATALOGUE, alias


def test_the_catalogue_needs_no_torch() -> None:
    code = (
        "import sys; from symbreak.schemes import *; from symbreak import schemes as s\n"
        "for name, make in s.CATALOGUE.items():\n"
        "    s.usage(make)\n"
        "s.parse('siren(frequency=3)'); s.parse('edge_of_chaos(\"gelu\")'); s.fans_of_shape((2, 3))\n"
        "print({'torch', 'numpy', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# ---- twins in torch, which share no code --------------------------------------------------------------------------

BITWISE = {
    "normal(0.02)": lambda w, g: nn.init.normal_(w, std=0.02, generator=g),
    "uniform(-0.05, 0.05)": lambda w, g: nn.init.uniform_(w, -0.05, 0.05, generator=g),
    "kaiming_normal": lambda w, g: nn.init.kaiming_normal_(w, nonlinearity="relu", generator=g),
    "kaiming_normal(mode='fan_out')": lambda w, g: nn.init.kaiming_normal_(
        w, mode="fan_out", nonlinearity="relu", generator=g
    ),
    "xavier_normal(gain=2.5)": lambda w, g: nn.init.xavier_normal_(w, gain=2.5, generator=g),
    "zeros": lambda w, g: nn.init.zeros_(w),
    "ones": lambda w, g: nn.init.ones_(w),
    "constant(0.3)": lambda w, g: nn.init.constant_(w, 0.3),
    "orthogonal": lambda w, g: nn.init.orthogonal_(w, generator=g),
    "orthogonal(gain=2.0)": lambda w, g: nn.init.orthogonal_(w, gain=2.0, generator=g),
}
CLOSE = {  # the same numbers, but for the last bit of a bound
    "kaiming_uniform": lambda w, g: nn.init.kaiming_uniform_(w, nonlinearity="relu", generator=g),
    "xavier_uniform": lambda w, g: nn.init.xavier_uniform_(w, generator=g),
    "lecun_uniform": lambda w, g: nn.init.kaiming_uniform_(w, nonlinearity="linear", generator=g),
    "torch_default": lambda w, g: nn.init.kaiming_uniform_(w, a=math.sqrt(5), generator=g),
}


@pytest.mark.parametrize("shape", [WIDE, CONV, (40, 90)])
@pytest.mark.parametrize("text", [*BITWISE, *CLOSE])
def test_the_same_generator_gives_torchs_own_weights(text: str, shape: tuple[int, ...]) -> None:
    ours = parse(text).draw(shape, generator=generator(5))
    theirs = {**BITWISE, **CLOSE}[text](torch.empty(shape), generator(5))
    if text in BITWISE:
        assert torch.equal(ours, theirs)
    else:
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize(("text", "low", "high"), [("truncated_normal(0.02, corrected=False)", -2, 2)])
def test_truncation_has_the_law_of_torch(text: str, low: float, high: float) -> None:
    ours = parse(text).draw(WIDE, generator=generator())
    theirs = nn.init.trunc_normal_(torch.empty(WIDE), std=0.02, a=low * 0.02, b=high * 0.02, generator=generator(9))
    assert stats.ks_2samp(ours.flatten().numpy(), theirs.flatten().numpy()).pvalue > 1e-3
    uncut = parse("normal(0.02)").draw(WIDE, generator=generator())
    assert stats.ks_2samp(uncut.flatten().numpy(), theirs.flatten().numpy()).pvalue < 1e-6  # the control


@pytest.mark.parametrize("cut", [0.5, 2.0, 3.0, 3.5, 5.0])
def test_truncation_has_its_exact_law(cut: float) -> None:
    weight = schemes.truncated_normal(2.0, mean=1.0, cut=cut, corrected=False).draw((300, 300), generator=generator())
    law = stats.truncnorm(-cut, cut, loc=1.0, scale=2.0)
    assert stats.kstest(weight.flatten().numpy(), law.cdf).pvalue > 1e-3
    assert float((weight - 1).abs().max()) <= 2 * cut * (1 + 1e-6)
    assert law.std() == pytest.approx(schemes.truncated_normal(2.0, cut=cut, corrected=False).moments().std, rel=1e-9)


def test_torchs_absolute_cut_is_none() -> None:
    torchs = nn.init.trunc_normal_(torch.empty(WIDE), std=0.02, generator=generator())
    normal = schemes.normal(0.02).draw(WIDE, generator=generator(3))
    assert stats.ks_2samp(torchs.flatten().numpy(), normal.flatten().numpy()).pvalue > 1e-3


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
def test_identity_is_eye(shape: tuple[int, int]) -> None:
    assert torch.equal(schemes.identity().draw(shape, generator=generator()), nn.init.eye_(torch.empty(shape)))


@pytest.mark.parametrize(("shape", "groups"), [((6, 4, 3), 1), ((6, 2, 4), 3), ((4, 8, 3, 5), 2), ((8, 2, 2, 2, 2), 4)])
def test_dirac_is_torchs(shape: tuple[int, ...], groups: int) -> None:
    ours = schemes.dirac().draw(shape, generator=generator(), place=Place(layout=Layout(groups=groups)))
    assert torch.equal(ours, nn.init.dirac_(torch.empty(shape), groups=groups))


# ---- patterns keep what they promise ------------------------------------------------------------------------------


def test_haar_is_uniform_under_rotations() -> None:
    """The first entry of a random unit vector in three dimensions is uniform: Archimedes. QR's own signs are not."""
    drawn = [haar(3, 3, source) for source in [generator(1)] for _ in range(3000)]
    first = torch.stack(drawn)[:, 0, 0].numpy()
    assert stats.kstest(first, stats.uniform(-1, 2).cdf).pvalue > 1e-3
    source = generator(1)
    raw = [
        torch.linalg.qr(torch.randn(3, 3, generator=source, dtype=torch.float64)).Q[0, 0].item() for _ in range(3000)
    ]
    assert stats.kstest(raw, stats.uniform(-1, 2).cdf).pvalue < 1e-6  # the control


@pytest.mark.parametrize("shape", [(700, 700), (900, 300), (300, 900)])
def test_orthonormal_to_the_rounding_of_float32(shape: tuple[int, int]) -> None:
    weight = schemes.orthogonal().draw(shape, generator=generator(), dtype=torch.float64)
    short = weight if shape[0] <= shape[1] else weight.T
    gram = short @ short.T
    assert float((gram - torch.eye(len(gram), dtype=torch.float64)).abs().max()) < 2e-6
    assert float(weight.mean()) == pytest.approx(0, abs=4 / max(shape) ** 0.5 / weight.numel() ** 0.5)
    assert float(weight.std()) == pytest.approx(max(shape) ** -0.5, rel=1e-4)


@pytest.mark.parametrize(
    ("layout", "shape", "pieces"),
    [
        (Layout(), (30, 20), 1),
        (Layout(parts=4), (80, 20), 4),
        (Layout(stack=1), (5, 12, 20), 5),
        (Layout(groups=3), (12, 4, 3), 3),
        (Layout(groups=3, transposed=True), (12, 8, 3), 3),
        (Layout(transposed=True), (20, 30), 1),
    ],
)
def test_orthogonal_acts_on_every_independent_matrix(layout: Layout, shape: tuple[int, ...], pieces: int) -> None:
    weight = schemes.orthogonal(gain=2.0).draw(
        shape, generator=generator(), place=Place(layout=layout), dtype=torch.float64
    )
    matrices = list(Place(shape=shape, layout=layout).matrices(weight))
    assert len(matrices) == pieces
    for matrix in matrices:
        singular = torch.linalg.svdvals(matrix.flatten(1))
        assert torch.allclose(singular, torch.full_like(singular, 2.0), atol=1e-6)
    assert len({tuple(matrix.flatten().tolist()[:4]) for matrix in matrices}) == pieces


@pytest.mark.parametrize("scheme", [schemes.delta_orthogonal(), schemes.orthogonal()], ids=repr)
def test_delta_orthogonal_keeps_lengths_and_flat_orthogonal_does_not(scheme: Scheme) -> None:
    conv = nn.Conv2d(4, 8, 3, padding=1, padding_mode="circular", bias=False)
    scheme.fill_(conv.weight, generator=generator())
    images = torch.randn(6, 4, 7, 7, generator=generator(2))
    ratio = conv(images).flatten(1).norm(dim=1) / images.flatten(1).norm(dim=1)
    assert torch.allclose(ratio, torch.ones(6), atol=1e-5) == (scheme.name == "delta_orthogonal")


def test_sparse_counts_incoming_weights_where_torch_counts_outgoing() -> None:
    weight = schemes.sparse(5).draw((40, 60), generator=generator())
    assert set((weight != 0).sum(1).tolist()) == {5}
    assert len(set((weight != 0).sum(0).tolist())) > 1
    with torch.random.fork_rng():
        torchs = nn.init.sparse_(torch.empty(40, 60), 0.9)
    assert set((torchs != 0).sum(0).tolist()) == {4}
    places = torch.stack([(schemes.sparse(1).draw((1, 8), generator=generator(s)) != 0)[0] for s in range(2000)])
    assert stats.chisquare(places.sum(0).numpy()).pvalue > 1e-3  # every place alike


def test_hadamard_rows_repeat_with_the_next_power_of_two() -> None:
    weight = schemes.zero_hadamard().draw((2048, 784), generator=generator())
    assert len(torch.unique(weight, dim=0)) == 1024
    square = schemes.zero_hadamard().draw((64, 64), generator=generator())
    assert torch.equal(square, torch.eye(64))
    tall = schemes.zero_hadamard().draw((64, 16), generator=generator())
    assert torch.allclose(tall.T @ tall, torch.eye(16), atol=1e-6)


def test_idinit_repeats_the_identity_and_the_noise_tells_rows_apart() -> None:
    assert len(torch.unique(schemes.idinit(noise=0.0).draw((12, 4), generator=generator()), dim=0)) == 4
    assert len(torch.unique(schemes.idinit().draw((12, 4), generator=generator()), dim=0)) == 12


def test_spectral_norm_is_what_it_says() -> None:
    for scheme in (schemes.spectral(), schemes.spectral(distribution="normal")):
        weight = scheme.draw((900, 400), generator=generator())
        norm = float(torch.linalg.matrix_norm(weight, 2))
        assert norm == pytest.approx(1.5, rel=0.03 if scheme.arguments else 1e-5)


# ---- recurrent ----------------------------------------------------------------------------------------------------


def test_an_lstm_started_by_chrono_remembers_so_long() -> None:
    """The memory of a unit is 1 / (1 - f); with inputs and recurrence zero it is the drawn time plus one."""
    bias = schemes.chrono(1000).draw(
        (4 * 500,), generator=generator(), place=Place(role="bias", layout=Layout(parts=4))
    )
    i, f = bias[:500].sigmoid(), bias[500:1000].sigmoid()
    assert torch.allclose(i, 1 - f, atol=1e-6)
    times = 1 / (1 - f.double()) - 1
    assert stats.kstest(times.numpy(), stats.uniform(1, 998).cdf).pvalue > 1e-3
    cell = nn.LSTMCell(1, 500)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.zero_()
        cell.bias_ih.copy_(bias)
        _, c = cell(torch.zeros(1, 1), (torch.zeros(1, 500), torch.ones(1, 500)))
    assert torch.allclose(c[0], f, atol=1e-6)


def test_a_gru_started_by_chrono_keeps_its_state() -> None:
    bias = schemes.chrono(1e6).draw((3 * 50,), generator=generator(), place=Place(role="bias", layout=Layout(parts=3)))
    cell = nn.GRUCell(1, 50)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.zero_()
        cell.bias_ih.copy_(bias)
        kept = cell(torch.zeros(1, 1), torch.ones(1, 50))[0]
    assert torch.allclose(kept, bias[50:100].sigmoid(), atol=1e-6)
    assert float(kept.mean()) > 0.99


# ---- what depends on the place ------------------------------------------------------------------------------------


def std(text: str, shape: tuple[int, ...] = (64, 32), **facts: object) -> float:
    return parse(text).moments(place=Place(shape=shape, **facts)).std  # type: ignore[arg-type]


def test_residual_schemes_scale_with_depth() -> None:
    he_out = math.sqrt(2 / 64)
    assert std("fixup", in_branch=True, branches=54, branch_layers=2) == pytest.approx(he_out * 54**-0.5)
    assert std("fixup", in_branch=True, branches=16, branch_layers=3) == pytest.approx(he_out * 16**-0.25)
    assert std("fixup") == pytest.approx(he_out)
    assert std("fixup", in_branch=True, branch_end=True) == std("fixup", position="last") == 0
    assert std("gpt2_residual", branch_end=True, branches=24) == pytest.approx(0.02 / math.sqrt(24))
    glorot = math.sqrt(2 / 96)
    assert std("ds_init", layer=9) == pytest.approx(glorot / 3)
    assert std("t_fixup", role="value", depth=16) == pytest.approx(glorot * 0.67 / 2)
    assert std("t_fixup", role="attention_out", depth=9, side="decoder") == pytest.approx(glorot / 3)
    assert std("t_fixup", role="embedding", depth=9) == pytest.approx(1 / 3 / math.sqrt(32))
    assert std("deepnorm", role="feed_forward", depth=2) == pytest.approx(glorot / 2)
    assert std("deepnorm", role="query_key", depth=2) == pytest.approx(glorot)
    both = "deepnorm(encoder_layers=6, decoder_layers=6, side='{}')"
    assert std(both.format("encoder"), role="value") == pytest.approx(glorot * 0.87 * 6 ** (-5 / 16))
    assert std(both.format("decoder"), role="value") == pytest.approx(glorot * 72**-0.25)
    place = Place(shape=(64, 32), role="value")
    assert parse(both.format("encoder")).companions(place).residual == pytest.approx(0.81 * 6 ** (5 / 16))
    assert parse(both.format("decoder")).companions(place).residual == pytest.approx(18**0.25)


def test_fused_queries_keys_and_values_get_their_own_scales() -> None:
    place = Place(shape=(192, 64), role="query_key_value", depth=16, layout=Layout(parts=3))
    q, k, v = schemes.t_fixup().draw((192, 64), generator=generator(), place=place).chunk(3)
    assert float(v.std() / q.std()) == pytest.approx(0.335, rel=0.03)
    assert float(k.std()) == pytest.approx(math.sqrt(2 / 128), rel=0.03)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_mup_is_the_table(optimizer: str) -> None:
    scheme, base = schemes.mup(optimizer=optimizer), Fans(64, 64)  # type: ignore[arg-type]
    hidden = Place(shape=(256, 256), base=base)
    first = Place(shape=(256, 10), base=Fans(10, 64), position="first")
    last = Place(shape=(10, 256), base=Fans(64, 10), position="last")
    bias = Place(shape=(256,), role="bias", base=Fans(64, 64))
    table = Place(shape=(1000, 256), role="embedding", base=Fans(64, 1000))
    rates = [scheme.companions(place).learning_rate for place in (hidden, first, last, bias, table)]
    assert rates == ([0.25, 1, 1, 1, 1] if optimizer == "adam" else [1, 4, 4, 4, 4])
    assert scheme.companions(last).multiplier == 0.25
    assert scheme.moments(place=last).std == pytest.approx(1 / 8)
    assert scheme.moments(place=hidden).std == pytest.approx(1 / 16)


def steps_moved(scheme: Scheme, width: int, base: int) -> float:
    """Root mean square by which the output of a three-layer net moves in two steps of Adam."""
    torch_generator = generator(width)
    shapes = [(width, 8), (width, width), (4, width)]
    bases = [Fans(8, base), Fans(base, base), Fans(base, 4)]
    places = [
        Place(shape=shape, base=fans, position=position)  # type: ignore[arg-type]
        for shape, fans, position in zip(shapes, bases, ("first", "hidden", "last"), strict=True)
    ]
    weights = [scheme.draw(p.shape, generator=torch_generator, place=p).double().requires_grad_() for p in places]
    beside = [scheme.companions(p) for p in places]
    optimizer = torch.optim.Adam(
        [{"params": [w], "lr": 0.001 * c.learning_rate} for w, c in zip(weights, beside, strict=True)]
    )
    x, y = (torch.randn(32, n, generator=generator(7), dtype=torch.float64) for n in (8, 4))

    def forward() -> Tensor:
        h = x
        for n, (weight, also) in enumerate(zip(weights, beside, strict=True)):
            h = also.multiplier * h @ weight.T
            h = h.tanh() if n < 2 else h
        return h

    before = forward().detach()
    for _ in range(2):
        optimizer.zero_grad()
        (forward() - y).square().mean().backward()
        optimizer.step()
    return float((forward().detach() - before).square().mean().sqrt())


def test_mup_moves_alike_at_every_width_and_lecun_does_not() -> None:
    """The coordinate check: with the rate of the narrow net, outputs of the wide one move by as much."""
    mup = [steps_moved(schemes.mup(), width, 64) for width in (64, 512)]
    plain = [steps_moved(schemes.lecun_normal(), width, 64) for width in (64, 512)]
    assert mup[1] / mup[0] < 2
    assert plain[1] / plain[0] > 3


def test_ntk_is_the_standard_parametrisation_up_to_the_learning_rate() -> None:
    """The gauge law: weights n_in times as fast, at the same function."""
    g = generator()
    place = Place(shape=(5, 40))
    unit = schemes.ntk().draw((5, 40), generator=g, place=place).double()
    scale = schemes.ntk().companions(place).multiplier
    x, y = torch.randn(7, 40, generator=g, dtype=torch.float64), torch.randn(7, 5, generator=g, dtype=torch.float64)
    one, other = unit.clone().requires_grad_(), (scale * unit).requires_grad_()
    for _ in range(5):
        for weight, factor, rate in ((one, scale, 0.1), (other, 1.0, 0.1 * scale**2)):
            (gradient,) = torch.autograd.grad((factor * x @ weight.T - y).square().mean(), weight)
            with torch.no_grad():
                weight -= rate * gradient
    assert torch.allclose(scale * one, other, atol=1e-12)


def test_edge_of_chaos_keeps_signal_and_gradient_over_fifty_layers() -> None:
    g, width = generator(), 400
    scheme = schemes.edge_of_chaos("tanh")
    h = torch.randn(16, width, generator=g, dtype=torch.float64, requires_grad=True)
    z, layers = h, []
    for _ in range(50):
        weight = scheme.draw((width, width), generator=g, dtype=torch.float64)
        bias = scheme.draw(
            (width,), generator=g, place=Place(role="bias"), fans=Fans(width, width), dtype=torch.float64
        )
        z = (z.tanh() if layers else z) @ weight.T + bias
        layers.append(float(z.detach().square().mean()))
    assert layers[-1] == pytest.approx(1, rel=0.35)
    (back,) = torch.autograd.grad((z * torch.randn(16, width, generator=g, dtype=torch.float64)).sum(), h)
    assert 0.2 < float(back.square().mean().sqrt()) < 5


def test_siren_pre_activations_are_nearly_standard_normal() -> None:
    g = generator()
    x = torch.rand(4000, 2, generator=g) * 2 - 1
    first = schemes.siren().draw((256, 2), generator=g, place=Place(position="first"))
    h, stds = torch.sin(30 * x @ first.T), []
    for _ in range(3):
        z = 30 * h @ schemes.siren().draw((256, 256), generator=g).T
        stds.append(float(z.std()))
        h = torch.sin(z)
    assert all(0.85 < spread < 1.1 for spread in stds)


def test_prior_bias_starts_at_the_entropy() -> None:
    p = torch.tensor([0.7, 0.2, 0.1])
    bias = schemes.prior_bias((7, 2, 1)).draw((3,), generator=generator(), place=Place(role="bias"))
    loss = -(p * bias.log_softmax(0)).sum()
    assert float(loss) == pytest.approx(float(-(p * p.log()).sum()), abs=1e-6)
    single = schemes.prior_bias(0.01).draw((4,), generator=generator(), place=Place(role="bias"))
    assert torch.allclose(single.sigmoid(), torch.full((4,), 0.01))


def test_legs_has_the_eigenvalues_of_its_paper() -> None:
    matrix = schemes.hippo_legs().draw((12, 12), generator=generator(), dtype=torch.float64)
    assert torch.allclose(matrix.diagonal(), -torch.arange(1.0, 13).double())
    assert not matrix.triu(1).any()
    assert float(matrix[5, 2]) == pytest.approx(-math.sqrt(11 * 5), rel=1e-6)


def test_steps_are_log_uniform() -> None:
    bias = schemes.mamba_step().draw((4000,), generator=generator(), dtype=torch.float64)
    logs = torch.nn.functional.softplus(bias).log().numpy()
    law = stats.uniform(math.log(1e-3), math.log(100))
    assert stats.kstest(logs, law.cdf).pvalue > 1e-3


def test_a_padding_row_stays_zero() -> None:
    place = Place(role="embedding", padding=3)
    table = schemes.normal().draw((6, 4), generator=generator(), place=place)
    assert (table == 0).all(dim=1).tolist() == [False, False, False, True, False, False]


# ---- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shape", "facts", "message"),
    [
        ("kaiming_normal", (8,), {}, "kaiming_normal: the fans of a tensor with fewer than two axes"),
        ("orthogonal", (8,), {}, r"orthogonal: it needs a weight with two axes, such as \(out, in\); .* shape \(8,\)"),
        ("identity", (4, 4, 3), {}, "take dirac for a convolution"),
        ("dirac", (4, 4), {}, "take identity for a matrix"),
        ("delta_orthogonal", (4, 8, 3), {}, "at least as many channels out as in, got 8 in and 4 out"),
        ("edge_of_chaos('sigmoid')", (4, 4), {}, "no critical point at q=1: the bias variance would be -5.54"),
        (
            "fixup",
            (4, 4),
            {"in_branch": True},
            "depends on branch_layers, which is not known here: pass bra",
        ),
        ("ds_init", (4, 4), {}, r"depends on layer, .* or place=Place\(layer=...\)"),
        ("gpt2_residual", (4, 4), {"branch_end": True}, "depends on branches"),
        ("rezero", (4, 4), {}, "this tensor is a weight"),
        ("zero_gamma", (4, 4), {}, "starts the gains of norms"),
        ("layer_scale", (4,), {"role": "gate"}, "depends on depth"),
        (
            "lstm_forget_bias",
            (4, 4),
            {},
            "this tensor is a weight. Take orthogonal",
        ),
        ("lstm_forget_bias", (6,), {"role": "bias", "layout": Layout(parts=3)}, r"needs 4 \(LSTM\) gates; here are 3"),
        ("chrono(100)", (6,), {"role": "bias"}, r"needs 4 \(LSTM\) or 3 \(GRU\) gates; here are 1"),
        ("lora", (4, 4), {}, "starts the factors of an adapter"),
        ("hippo_legs", (3, 4), {}, r"a square matrix \[n, n\] of states"),
        ("word2vec", (4,), {}, r"starts a table \[row, d\]"),
        ("prior_bias((1, 2))", (3,), {"role": "bias"}, r"2 numbers were given for a bias of shape \(3,\)"),
        ("prior_bias(0.5)", (3, 3), {}, "starts the bias of the output"),
        ("zeros", (3, -1), {}, "expected sizes that are whole numbers"),
        ("kaiming_normal", (6, 4), {"layout": Layout(groups=4)}, "cannot be cut into 4 groups"),
    ],
)
def test_shapes_and_places_a_scheme_cannot_take(
    text: str, shape: tuple[int, ...], facts: dict[str, object], message: str
) -> None:
    with pytest.raises(SchemeError, match=message):
        parse(text).draw(shape, generator=generator(), place=Place(**facts))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("uniform(1, 0)", "low=1 lies above high=0: swap them"),
        ("truncated_normal(cut=0)", "cut=0: expected a finite number above 0"),
        ("mamba_step(low=1.0)", "expected low below high"),
        ("sparse(0)", "connections=0: expected a whole number, 1 or more"),
        ("sparse(2.5)", "connections=2.5: expected a whole number"),
        ("variance_scaling(mode='fan')", "expected 'fan_in', 'fan_out', 'fan_avg' or 'fan_geo_avg'"),
        ("variance_scaling(distribution='gauss')", "expected 'normal', 'truncated_normal' or 'uniform'"),
        ("edge_of_chaos('tanhh')", "no activation is called 'tanhh'. Nearest: tanh"),
        ("chrono(2)", "longest=2: expected a finite number above 2"),
        ("prior_bias(1.0)", "between 0 and 1"),
        ("prior_bias((1,))", "a share for each of two classes or more"),
        ("prior_bias((1, 0))", "expected a finite number above 0"),
        ("mup(optimizer='lbfgs')", "expected 'sgd' or 'adam'"),
        ("deepnorm(encoder_layers=0)", "expected a whole number, 1 or more"),
        ("embedding_normal(scaled=1)", "expected True or False"),
        ("orthogonall", "Nearest: orthogonal, delta_orthogonal"),
    ],
)
def test_bad_arguments(text: str, message: str) -> None:
    with pytest.raises(SchemeError, match=message):
        parse(text)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.empty(3, 3, device="meta"), "on the meta device has no memory; use to_empty"),
        (torch.zeros(3, 3, dtype=torch.int64), "draws real numbers, not torch.int64"),
        (torch.zeros(3, 3, dtype=torch.complex64), "draws real numbers, not torch.complex64"),
        (torch.zeros(1, 3).expand(3, 3), "share memory"),
        (torch.zeros(3, 3).to_sparse(), "fills dense tensors"),
    ],
)
def test_tensors_that_cannot_be_filled(weight: Tensor, message: str) -> None:
    with pytest.raises(SchemeError, match=message):
        schemes.normal().fill_(weight, generator=generator())


def test_a_failed_fill_leaves_the_tensor(tmp_path: object) -> None:
    weight = torch.ones(4, 8, 3)
    with pytest.raises(SchemeError):
        schemes.delta_orthogonal().fill_(weight, generator=generator())
    assert torch.equal(weight, torch.ones(4, 8, 3))


@given(st.sampled_from(sorted(CATALOGUE)), st.randoms(use_true_random=False))
def test_a_misspelt_name_is_answered_with_names(name: str, random: object) -> None:
    letters = list(name)
    letters.insert(random.randrange(len(letters)), "q")  # type: ignore[attr-defined]
    with pytest.raises(SchemeError, match="Nearest: "):
        parse("".join(letters))
