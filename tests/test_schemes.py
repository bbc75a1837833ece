"""Schemes: one notation, moments that hold, draws that leave the global state alone, honest recognition."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from symbreak import schemes
from symbreak.errors import SchemeError
from symbreak.schemes import CATALOGUE, Fans, fans_of, fans_of_shape, parse, recognise

# The same law by torch's own code, which shares none with ours.
TORCH = {
    "kaiming_normal": lambda w: nn.init.kaiming_normal_(w),
    "kaiming_normal(mode='fan_out')": lambda w: nn.init.kaiming_normal_(w, mode="fan_out"),
    "kaiming_uniform": lambda w: nn.init.kaiming_uniform_(w),
    "xavier_normal": lambda w: nn.init.xavier_normal_(w),
    "xavier_normal(gain=2.5)": lambda w: nn.init.xavier_normal_(w, gain=2.5),
    "xavier_uniform": lambda w: nn.init.xavier_uniform_(w),
    "lecun_normal": lambda w: nn.init.kaiming_normal_(w, nonlinearity="linear"),
    "lecun_uniform": lambda w: nn.init.kaiming_uniform_(w, nonlinearity="linear"),
    "torch_default": lambda w: nn.init.kaiming_uniform_(w, a=math.sqrt(5)),
    "normal(0.02)": lambda w: nn.init.normal_(w, std=0.02),
    "normal(0.02, mean=1)": lambda w: nn.init.normal_(w, mean=1.0, std=0.02),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def drawn():
    """Weights by torch's own functions, from a fixed global state that is put back."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        yield


@given(
    st.sampled_from(["kaiming_normal", "kaiming_uniform"]),
    st.floats(0, 1e6),
    st.sampled_from(["fan_in", "fan_out"]),
)
def test_repr_round_trip_for_any_argument(name, gain, mode):
    scheme = CATALOGUE[name](gain=gain, mode=mode)
    assert parse(repr(scheme)) == scheme


def test_short_names_and_equal_notations():
    assert parse("kaiming") == schemes.kaiming_normal()
    assert parse("torch default") == parse("torch") == schemes.torch_default()
    assert parse("normal(0.02)") == parse(" normal(std=0.02) ")
    assert parse("kaiming_normal(gain=1.0, mode='fan_in')") == schemes.kaiming_normal(gain=1.0)
    assert parse("normal(0.02)") != parse("normal(0.03)")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kaimng_normal", "Nearest: kaiming_normal"),
        ("normal(", "is not a scheme"),
        ("", "is not a scheme"),
        ("nn.init.zeros_", "is not a scheme"),
        ("normal(**{'std': 1})", "is not a scheme"),
        ("normal(__import__('os').getpid())", "plain numbers or strings"),
        ("normal(sigma=1)", r"unexpected keyword argument 'sigma' It is written normal\(std=1.0, mean=0.0\)"),
        ("constant", r"written constant\(value\)"),
        ("normal(-1)", "std=-1: expected a finite number, 0 or more"),
        ("normal('wide')", "std='wide': expected a finite number"),
        ("constant(1e999)", "value=inf: expected a finite number"),
        ("kaiming_normal(mode='fan_avg')", "expected 'fan_in' or 'fan_out'"),
    ],
)
def test_malformed_schemes_say_what_was_expected(text, message):
    with pytest.raises(SchemeError, match=message):
        parse(text)


@pytest.mark.parametrize("text", TORCH)
@pytest.mark.parametrize("shape", [(150, 70), (24, 16, 3, 3)])
def test_draws_have_the_law_of_torchs_own(drawn, text, shape):
    ours = parse(text).draw(shape, generator=generator())
    theirs = TORCH[text](torch.empty(shape))
    assert stats.ks_2samp(ours.flatten().numpy(), theirs.flatten().numpy()).pvalue > 1e-3
    wrong = 1.1 * ours  # the control: ten per cent too wide is told apart
    assert stats.ks_2samp(wrong.flatten().numpy(), theirs.flatten().numpy()).pvalue < 0.2


def test_a_vector_needs_the_fans_of_its_layer():
    with pytest.raises(SchemeError, match="pass fans="):
        schemes.kaiming_normal().draw((8,), generator=generator())
    drawn = schemes.torch_default().draw((8,), fans=Fans(100, 8), generator=generator())
    assert drawn.abs().max() <= 0.1
    assert schemes.zeros().draw((8,), generator=generator()).count_nonzero() == 0


@pytest.mark.parametrize(
    ("module", "fan_in", "fan_out"),
    [
        (nn.Linear(7, 5), 7, 5),
        (nn.Conv1d(4, 6, 3), 12, 18),
        (nn.Conv2d(8, 16, 3, groups=4), 18, 36),
        (nn.Conv2d(8, 8, (3, 5), groups=8), 15, 15),
        (nn.ConvTranspose2d(8, 4, 3), 72, 36),
        (nn.ConvTranspose2d(8, 16, 3, groups=4), 18, 36),
        (nn.Conv3d(2, 3, 2), 16, 24),
    ],
)
def test_fans_count_the_terms_that_meet(module, fan_in, fan_out):
    assert fans_of(module) == Fans(fan_in, fan_out)


@pytest.mark.parametrize("transposed", [False, True])
def test_fans_agree_with_counting_gradients(transposed):
    """The oracle: how many inputs an inner output depends on, and how many outputs an inner input feeds."""
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    conv = kind(6, 9, 3, groups=3, bias=False)
    nn.init.ones_(conv.weight)
    x = torch.ones(1, 6, 9, 9, requires_grad=True)
    out = conv(x)
    (seen,) = torch.autograd.grad(out[0, 0, 4, 4], x, retain_graph=True)
    bump = torch.zeros_like(x)
    bump[0, 0, 4, 4] = 1.0
    fed = conv(bump)
    assert fans_of(conv) == Fans(int(seen.count_nonzero()), int(fed.count_nonzero()))


@pytest.mark.parametrize("module", [nn.LayerNorm(4), nn.Embedding(4, 3), nn.Sequential(), nn.LSTM(3, 4)])
def test_modules_without_fans(module):
    assert fans_of(module) is None


def test_a_bias_has_no_fans():
    with pytest.raises(SchemeError, match="it needs two axes"):
        fans_of_shape((3,))


@pytest.mark.parametrize("shape", [(100, 40), (64, 400), (24, 16, 3, 3)])
@pytest.mark.parametrize("text", [t for t in TORCH if t != "xavier_normal(gain=2.5)" and "mean" not in t])
def test_recognises_what_torch_drew(drawn, shape, text):
    found = recognise(TORCH[text](torch.empty(shape)), fans_of_shape(shape))
    assert found.scheme == parse(text)


@pytest.mark.parametrize(
    ("weight", "text"),
    [
        (torch.zeros(4, 4), "zeros"),
        (torch.ones(3), "ones"),
        (torch.full((3,), 0.1), "constant(0.1)"),
        (torch.full((3,), 0.1, dtype=torch.float64), "constant(0.1)"),
        (torch.eye(8), "identity"),
        (torch.eye(8, 5), "identity"),
        (nn.init.dirac_(torch.empty(8, 8, 3, 3)), "dirac"),
        (torch.tensor([0.2, -0.1]), "too few values to tell (2)"),
        (torch.tensor([1.0, float("nan")]), "unrecognised (not finite)"),
        (torch.arange(40), "unrecognised (torch.int64)"),
        (torch.empty(5, 5, device="meta"), "no values"),
        (torch.empty(0, 5), "no values"),
        (torch.tensor([[1.0, -1.0]] * 100), "unrecognised (mean 0, std 1)"),
        (torch.tensor([0.0, 0.0, 0.0, 1.0] * 50), "unrecognised (75% zeros)"),
    ],
)
def test_exact_patterns(weight, text):
    assert recognise(weight, Fans(64, 64)).text == text


def test_recognises_random_patterns(drawn):
    assert recognise(nn.init.orthogonal_(torch.empty(30, 20))).text == "orthogonal"
    assert recognise(nn.init.orthogonal_(torch.empty(10, 20), gain=2.0)).text == "orthogonal(gain=2.0)"
    assert recognise(nn.init.trunc_normal_(torch.empty(100, 100), std=0.02, a=-0.04, b=0.04)).text == (
        "truncated normal(std=0.02), cut at 2 std"
    )
    assert recognise(nn.init.trunc_normal_(torch.empty(100, 100), std=0.02)).text == "normal(std=0.02)"
    assert recognise(nn.Embedding(100, 32, padding_idx=0).weight).text == "normal(std=1.0), 1 row zero"
    assert recognise(torch.rand(100, 100)).text.startswith("uniform(")
    linear = nn.Linear(64, 64)
    for part in (linear.weight, linear.bias, linear.weight.half()):
        assert recognise(part, fans_of(linear)).text == "uniform(±1/sqrt(fan_in)), torch's default"
    attention = nn.MultiheadAttention(64, 4).in_proj_weight
    assert recognise(attention, fans_of_shape(attention.shape)).text == "xavier_uniform"


def test_a_law_it_does_not_know_stays_unrecognised(drawn):
    for law in (torch.distributions.Laplace(0.0, 1.0), torch.distributions.Cauchy(0.0, 1.0)):
        assert recognise(law.sample((100, 100)), Fans(100, 100)).text.startswith("unrecognised")
    trained = nn.init.kaiming_normal_(torch.empty(100, 100)) + 0.5 * torch.randn(100, 1)
    assert "kaiming" not in recognise(trained, Fans(100, 100)).text


def test_few_values_are_hardly_ever_misnamed(drawn):
    """Uniform never called normal and the other way round, over 400 small tensors."""
    names = [recognise(torch.rand(40) - 0.5).text for _ in range(200)]
    assert not [name for name in names if name.startswith("normal")]
    names = [recognise(torch.randn(40)).text for _ in range(200)]
    assert len([name for name in names if name.startswith("uniform")]) <= 4


def test_recognising_only_reads(drawn):
    weight = torch.randn(50, 50, requires_grad=True)
    before, state = weight.detach().clone(), torch.random.get_rng_state()
    recognise(weight, Fans(50, 50))
    assert torch.equal(weight.detach(), before)
    assert weight.grad is None
    assert torch.equal(state, torch.random.get_rng_state())
