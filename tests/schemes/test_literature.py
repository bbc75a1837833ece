"""Schemes known from the literature alone, each against what its paper derives or its authors' code computes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from symbreak import schemes
from symbreak.schemes import Fans, Layout, Place, Scheme
from symbreak.schemes.attention import _roots
from symbreak.schemes.recognise import recognise

IN, OUT = 24, 3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


# ---- parametrisations ----------------------------------------------------------------------------------------------


def losses(weights: list[Tensor], scales: list[float], rates: list[float], steps: int = 20) -> list[float]:
    """Two layers y = s2 W2 tanh(s1 W1 x) under gradient descent, a learning rate for each."""
    first, second = (w.clone().requires_grad_() for w in weights)
    x, y = randn(32, IN, seed=1), randn(32, OUT, seed=2)
    found = []
    for _ in range(steps):
        out = scales[1] * torch.tanh(scales[0] * x @ first.T) @ second.T
        loss = (out - y).square().mean()
        found.append(float(loss.detach()))
        loss.backward()
        with torch.no_grad():
            for w, rate in zip((first, second), rates, strict=True):
                w -= rate * w.grad
                w.grad = None
    return found


def places(n: int) -> tuple[Place, Place]:
    return Place(shape=(n, IN), position="first"), Place(shape=(OUT, n), position="last")


def test_ntk_trains_as_the_standard_parametrisation_does_with_other_rates() -> None:
    scheme, where = schemes.ntk(weight_std=1.5), places(40)
    unit = [scheme.draw(p.shape, generator=generator(i), place=p).double() for i, p in enumerate(where)]
    scales = [scheme.companions(p).multiplier for p in where]
    assert scales == [1.5 / math.sqrt(IN), 1.5 / math.sqrt(40)]  # stax.Dense: W_std / sqrt(fan_in)
    ours = losses(unit, scales, [0.7, 0.7])
    standard = [s * w for s, w in zip(scales, unit, strict=True)]
    assert losses(standard, [1.0, 1.0], [0.7 * s**2 for s in scales]) == pytest.approx(ours, rel=1e-12)
    assert losses(standard, [1.0, 1.0], [0.7 / 24, 0.7 / 24]) != pytest.approx(ours, rel=1e-3)  # one common rate


@pytest.mark.parametrize("copies", [2, 5])
def test_mean_field_training_does_not_see_copies(copies: int) -> None:
    n = 8
    first, second = randn(n, IN, seed=3), randn(OUT, n, seed=4)

    def run(width: int, scheme: Scheme) -> list[float]:
        k = width // n
        beside = [scheme.companions(p) for p in places(width)]
        weights = [first.repeat(k, 1), second.repeat(1, k)]
        return losses(weights, [c.multiplier for c in beside], [0.1 * c.learning_rate for c in beside])

    ours = schemes.mean_field()
    assert run(copies * n, ours) == pytest.approx(run(n, ours), rel=1e-9)
    assert run(copies * n, schemes.ntk()) != pytest.approx(run(n, schemes.ntk()), rel=1e-3)  # the control


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_spectral_moves_features_alike_at_every_width(optimizer: str) -> None:
    """The condition: weights and updates of norm sqrt(n_out / n_in), so that features move by size 1 an entry."""
    scheme = schemes.spectral(optimizer=optimizer)  # type: ignore[arg-type]

    def moved(n: int, right: bool) -> float:
        place = Place(shape=(n, n))
        weight = scheme.draw((n, n), generator=generator(5), place=place).double()
        assert float(torch.linalg.matrix_norm(weight, 2)) == pytest.approx(1.0, rel=1e-4)
        x, back = randn(n, seed=6), randn(n, seed=7) / n  # features of size 1, back-signal of size 1/n: a mean's
        step = torch.outer(back, x)
        step = step.sign() if optimizer == "adam" else step
        rate = scheme.companions(place).learning_rate if right else 1.0 if optimizer == "adam" else 1.0 / n
        return float((rate * step @ x).square().mean().sqrt())

    sizes = [moved(n, True) for n in (64, 256, 1024)]
    assert max(sizes) < 1.5 * min(sizes)
    wrong = [moved(n, False) for n in (64, 1024)]
    assert not 1 / 3 < wrong[0] / wrong[1] < 3


@pytest.mark.parametrize("constrained", [False, True])
def test_unit_scaling_keeps_values_and_gradients_at_one(constrained: bool) -> None:
    n_in, n_out, batch = 400, 100, 300
    place = Place(fans=Fans(n_in, n_out))
    scheme = schemes.unit_scaling(constrained=constrained)
    beside = scheme.companions(place)
    assert beside.backward is not None
    weight = scheme.draw((n_out, n_in), generator=generator(8)).double()
    x, g = randn(batch, n_in, seed=9), randn(batch, n_out, seed=10)
    value, back = float((beside.multiplier * x @ weight.T).std()), float((beside.backward * g @ weight).std())
    assert float((batch**-0.5 * g.T @ x).std()) == pytest.approx(1, rel=0.05)
    if constrained:  # one number for both: their sizes are one over each other
        assert beside.multiplier == beside.backward == pytest.approx((n_in * n_out) ** -0.25)
        assert value * back == pytest.approx(1, rel=0.05)
    else:
        assert (value, back) == pytest.approx((1, 1), rel=0.05)


# ---- residual ------------------------------------------------------------------------------------------------------


def test_ds_init_is_the_papers_and_with_the_other_power_the_codes() -> None:
    place = Place(shape=(50, 150), layer=9)
    glorot = schemes.xavier_uniform().moments(place=place).std
    assert schemes.ds_init().moments(place=place).std == pytest.approx(glorot / 3)
    scale, fan_avg = 1.0 * 9**-0.5, (50 + 150) / 2  # tf.variance_scaling_initializer(gain * l^-0.5, fan_avg, uniform)
    tensorflow = math.sqrt(3 * scale / fan_avg) / math.sqrt(3)  # the bound's standard deviation
    assert schemes.ds_init(power=0.25).moments(place=place).std == pytest.approx(tensorflow)


# ---- recurrent -----------------------------------------------------------------------------------------------------


def test_an_lstm_with_its_forget_bias_keeps_073_a_step() -> None:
    """In torch's own LSTM, whose two biases are added: filling both would keep sigmoid(2) = 0.88."""
    h = 5
    lstm = nn.LSTM(3, h).double()
    for name, weight in lstm.named_parameters():
        weight.data.zero_()
        if "bias" in name:
            role = "recurrent_bias" if "_hh" in name else "bias"
            place = Place(role=role, layout=Layout(parts=4))  # type: ignore[arg-type]
            schemes.lstm_forget_bias().fill_(weight, generator=generator(), place=place)
    start = (torch.zeros(1, 1, h, dtype=torch.float64), torch.ones(1, 1, h, dtype=torch.float64))
    _, (_, cell) = lstm(torch.zeros(4, 1, 3, dtype=torch.float64), start)
    kept = torch.sigmoid(torch.tensor(1.0, dtype=torch.float64))
    assert torch.allclose(cell, kept**4 * torch.ones_like(cell))
    assert float(kept) == pytest.approx(0.731, abs=1e-3)


# ---- patterns ------------------------------------------------------------------------------------------------------


def test_idinit_reads_a_convolution_as_a_matrix_unless_asked_otherwise() -> None:
    shape = (6, 2, 3, 3)
    patch = schemes.idinit(noise=0.0).draw(shape, generator=generator())
    assert torch.equal(patch.flatten(1), schemes.idinit(noise=0.0).draw((6, 18), generator=generator()))
    assert len({tuple(row.nonzero().flatten().tolist()) for row in patch.flatten(1)}) == 6  # no channel has a twin
    channel = schemes.idinit(noise=0.0, kernel="channel").draw(shape, generator=generator())
    assert int(channel.count_nonzero()) == 6
    assert torch.equal(channel[:, :, 1, 1], torch.eye(2).repeat(3, 1))
    image = torch.randn(1, 2, 5, 5, generator=generator(1))
    out = nn.functional.conv2d(image, channel, padding=1)
    assert torch.equal(out, image.repeat(1, 3, 1, 1))


@pytest.mark.parametrize("end", [False, True])
@pytest.mark.parametrize("shape", [(6, 2, 3, 3), (20, 2, 3, 3), (18, 2, 3, 3), (5, 4, 2), (4, 1, 1, 1)])
def test_idinit_of_a_convolution_is_a_padded_identity_over_patches(shape: tuple[int, ...], end: bool) -> None:
    """Entry by entry: more channels out than a patch has entries, as many, fewer; the last weight of a branch, too."""
    weight = schemes.idinit(noise=0.0).draw(shape, generator=generator(), place=Place(shape=shape))
    taps = math.prod(shape[2:])
    small = min(shape[0], shape[1] * taps)
    for o in range(shape[0]):
        for i in range(shape[1]):
            for k, value in enumerate(weight[o, i].flatten().tolist()):
                assert value == float((i * taps + k - o) % small == 0)
    noisy = schemes.idinit().draw(shape, generator=generator(), place=Place(shape=shape, branch_end=end))
    level = 1e-6 if end else 1.0
    assert float((noisy - level * weight).abs().max()) < 6e-6  # six deviations of the noise
    assert len({tuple(row.tolist()) for row in noisy.flatten(1)}) == shape[0]  # no two channels are one


def test_idinit_over_patches_hands_every_entry_of_a_patch_on() -> None:
    """With at least as many channels as entries, the patch can be read off the output: nothing is lost."""
    image = torch.randn(1, 2, 5, 5, generator=generator(1))
    weight = schemes.idinit(noise=0.0).draw((18, 2, 3, 3), generator=generator())
    out = nn.functional.conv2d(image, weight, padding=1)
    assert torch.equal(out.flatten(2), nn.functional.unfold(image, 3, padding=1))
    ended = schemes.idinit().draw((18, 2, 3, 3), generator=generator(), place=Place(branch_end=True))
    assert 0 < float(nn.functional.conv2d(image, ended, padding=1).abs().max()) < 1e-4  # all but the identity beside it


@pytest.mark.parametrize("text", ["idinit", "idinit(kernel='channel')", "idinit(gain=2.0, noise=0.0)"])
def test_idinit_is_recognised_in_convolutions(text: str) -> None:
    weight = schemes.parse(text).draw((12, 6, 3, 3), generator=generator())
    assert recognise(weight).text == text


def test_mimetic_factors_in_the_other_order_share_the_spectrum_and_the_trace_only() -> None:
    left, right = _roots(24, (0.4, -0.4), generator(2))
    meant, other = left @ right, right @ left
    assert float(meant.trace()) == pytest.approx(float(other.trace()), rel=1e-9)
    ours, theirs = (torch.linalg.eigvals(m) for m in (meant, other))
    gap = (ours[:, None] - theirs).abs().amin(1)
    assert float(gap.max()) < 1e-9
    off = [float((m - m.diagonal().diag()).square().mean().sqrt()) for m in (meant, other)]
    assert not torch.allclose(meant, other)
    assert off[0] == pytest.approx(0.4 * 24**-0.5, rel=0.1)


# ---- growth --------------------------------------------------------------------------------------------------------


def test_drop_upcycling_renews_whole_units_by_the_statistics_of_what_they_were() -> None:
    h, i, ratio = 101, 60, 0.55  # 55.55 units: 55
    up = 0.3 + 2.0 * randn(h, i, seed=11).float()
    down = -0.1 + 0.5 * randn(40, h, seed=12).float()
    ups, downs, _ = schemes.drop_upcycled(up, down, 4, generator=generator(13), ratio=ratio)
    for made_up, made_down in zip(ups, downs, strict=True):
        new = (made_up != up).any(1)
        assert int(new.sum()) == 55
        assert torch.equal(new, (made_down != down).any(0))
        for made, old in ((made_up[new], up[new]), (made_down[:, new], down[:, new])):
            error = float(old.std()) / math.sqrt(old.numel())
            assert float(made.mean()) == pytest.approx(float(old.mean()), abs=5 * error)
            assert float(made.std()) == pytest.approx(float(old.std()), abs=5 * error)
