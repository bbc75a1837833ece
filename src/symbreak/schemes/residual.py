"""Schemes of residual networks and transformers: what lies in a branch, and how many branches there are."""

from __future__ import annotations

import math
from typing import Literal

from symbreak.errors import SchemeError
from symbreak.schemes.checks import choice, number, whole
from symbreak.schemes.fans import FanMode
from symbreak.schemes.laws import Companions, Constant, Law, Normal, Parts, within
from symbreak.schemes.place import Place, told
from symbreak.schemes.scaled import MODES
from symbreak.schemes.scheme import LawOf, scheme

Side = Literal["encoder", "decoder"]
SCALED = (
    "value",
    "attention_out",
    "feed_forward",
)  # by T-Fixup and DeepNorm; not queries and keys


def _count(name: str, given: int | None) -> int | None:
    return None if given is None else whole(name, given)


def _vector(place: Place) -> Law | None:
    """Zero biases, unit gains: what every scheme of this file does with vectors."""
    if place.is_bias:
        return Constant(0.0)
    return Constant(1.0) if place.role == "gain" else None


@scheme
def fixup(*, branches: int | None = None, branch_layers: int | None = None, mode: FanMode = "fan_out") -> LawOf:
    """A residual network that trains without normalisation.

    The last layer of every branch and the classifier are zero. The other layers of a branch are He normal times
    L^(-1/(2m-2)), L branches of m layers. Everything else is He normal. Scalar biases before every convolution and
    activation start at 0, scalar multipliers (role gate) at 1.

    Wakes in three steps: classifier, last layers of branches, inner layers. The authors train the scalars with a tenth
    of the learning rate, and need mixup or the like to keep up with batch norm; they leave the stem at torch's default,
    where the paper says He.

    Args:
        branches: L, residual branches of the network; by default what the place says.
        branch_layers: m, weight layers in a branch; by default what the place says.
        mode: fan of the He part; "fan_out" in the authors' code.
    Example:
        >>> place = Place(shape=(64, 64, 3, 3), in_branch=True, branches=16, branch_layers=2)
        >>> round(fixup().moments(place=place).std * (64 * 9 / 2) ** 0.5, 6)
        0.25

    Source: Zhang, Dauphin and Ma 2019, arXiv:1901.09321, section 3; hongyi-zhang/Fixup, fixup_resnet_cifar.py.
    """
    many, deep = _count("branches", branches), _count("branch_layers", branch_layers)
    side = choice("mode", mode, MODES)

    def law(place: Place) -> Law:
        if place.role in ("gain", "gate"):
            return Constant(1.0, companions=Companions(learning_rate=0.1))
        if place.is_bias:
            scalar = math.prod(place.shape) == 1
            return Constant(0.0, companions=Companions(learning_rate=0.1 if scalar else 1.0))
        if place.branch_end or place.position == "last":
            return Constant(0.0)
        std = math.sqrt(2 / (place.fan_in if side == "fan_in" else place.fan_out))
        if place.in_branch:
            m = told(place, "branch_layers", deep)
            std *= told(place, "branches", many) ** (-1 / (2 * m - 2)) if m > 1 else 0.0
        return Normal(std)

    return law


@scheme
def rezero(alpha: float = 0.0) -> LawOf:
    """One scalar on every residual branch, closed at the start: x + alpha F(x).

    alpha = 0 makes the network the identity whatever its depth. alpha wakes at the first step and the branch at the
    second; an alpha of 0 on a branch whose last layer is 0 never wakes. SkipInit is the same with a batch-norm net in
    mind.

    Args:
        alpha: 0 in both papers.
    Example:
        >>> rezero().moments(place=Place(role="gate", shape=(1,))).mean
        0.0

    Source: Bachlechner et al. 2020, arXiv:2003.04887; De and Smith 2020, arXiv:2002.10444; majumderb/rezero.
    """
    level = number("alpha", alpha)

    def law(place: Place) -> Law:
        if place.role != "gate":
            raise SchemeError(f"it starts the scalar on a branch (role gate); this tensor is a {place.role}.")
        return Constant(level)

    return law


@scheme
def zero_gamma() -> LawOf:
    """Norm gains one, but zero in the last norm of every residual branch: blocks start as the identity.

    gamma = 0 at the end of a branch, else 1; biases 0. Fatal where the skip path has a norm with gamma 0, too.

    Example:
        >>> zero_gamma().moments(place=Place(role="gain", branch_end=True)).mean
        0.0

    Source: Goyal et al. 2017, arXiv:1706.02677, section 5.1; torchvision's zero_init_residual.
    """

    def law(place: Place) -> Law:
        if place.role != "gain" and not place.is_bias:
            raise SchemeError(f"it starts the gains of norms; this tensor is a {place.role}.")
        return Constant(1.0 if place.role == "gain" and not place.branch_end else 0.0)

    return law


@scheme
def layer_scale(epsilon: float | None = None) -> LawOf:
    """A vector on every residual branch that starts almost closed: x + diag(g) F(x).

    g = epsilon; without it by depth: 0.1 up to 18 blocks, 1e-5 up to 24, 1e-6 beyond. Not zero, so the branch learns
    from the first step.

    Args:
        epsilon: of every entry; by default as above.
    Example:
        >>> layer_scale().moments(place=Place(role="gate", depth=36)).mean
        1e-06

    Source: Touvron et al. 2021 (CaiT), arXiv:2103.17239, section 2; timm's LayerScale takes 1e-5 whatever the depth.
    """
    given = None if epsilon is None else number("epsilon", epsilon)

    def law(place: Place) -> Law:
        if place.role != "gate":
            raise SchemeError(f"it starts the vector on a branch (role gate); this tensor is a {place.role}.")
        if given is not None:
            return Constant(given)
        depth = told(place, "depth")
        return Constant(0.1 if depth <= 18 else 1e-5 if depth <= 24 else 1e-6)

    return law


@scheme
def gpt2_residual(std: float = 0.02, *, branches: int | None = None) -> LawOf:
    """GPT-2's start: every weight N(0, std^2), and what ends a residual branch smaller by the number of branches.

    std / sqrt(branches) for the last weight of a branch, so that their sum has the size of one. A GPT with n layers has
    2n branches (nanoGPT: 0.02 / sqrt(2 n_layer)); the paper says 1/sqrt(N) with N residual layers. Biases 0, gains 1.

    Args:
        std: of all other weights and embeddings.
        branches: residual branches of the network; by default what the place says.
    Example:
        >>> round(gpt2_residual(branches=24).moments(place=Place(branch_end=True)).std, 6)
        0.004082

    Source: Radford et al. 2019, section 2.3; karpathy/nanoGPT, model.py.
    """
    std, many = number("std", std, least=0.0), _count("branches", branches)

    def law(place: Place) -> Law:
        vector = _vector(place)
        if vector is not None:
            return vector
        return Normal(std / math.sqrt(told(place, "branches", many)) if place.branch_end else std)

    return law


@scheme
def ds_init(alpha: float = 1.0, *, layer: int | None = None, power: float = 0.5) -> LawOf:
    """Glorot's uniform weights, smaller the deeper the layer.

    W ~ U(-c, c) with c = alpha sqrt(6 / (n_in + n_out)) l^(-power), l = 1, 2, ... counted in encoder and decoder
    separately. Post-norm transformers then keep their gradient at 12 to 30 layers.

    The paper divides the bound by sqrt(l), which is the default here. The authors' code hands l^(-1/2) to TensorFlow's
    variance scaling as the scale of the variance, so there the bound falls with l^(-1/4): power=0.25.

    Args:
        alpha: in (0, 1]; 1 in the paper's experiments.
        layer: l; by default what the place says.
        power: of the layer's number in the bound: 0.5 in the paper, 0.25 in the code.
    Example:
        >>> place = Place(shape=(50, 150), layer=4)
        >>> ds_init().moments(place=place).std == 0.5 * ds_init(layer=1).moments(place=place).std
        True

    Source: Zhang, Titov and Sennrich 2019, arXiv:1908.11365, section 4; bzhangGo/zero, deep_transformer_init in
        models/transformer.py.
    """
    alpha, given = number("alpha", alpha, above=0.0), _count("layer", layer)
    power = number("power", power, least=0.0)

    def law(place: Place) -> Law:
        vector = _vector(place)
        if vector is not None:
            return vector
        bound = alpha * math.sqrt(6 / (place.fan_in + place.fan_out))
        return within(bound * told(place, "layer", given) ** -power)

    return law


@scheme
def t_fixup(
    *, depth: int | None = None, side: Literal["encoder", "decoder"] | None = None, query_gain: float = 1.0
) -> LawOf:
    """A transformer that trains without layer norm and without warm-up.

    Glorot uniform for every weight; embeddings N(0, 1/d) times (9N)^(-1/4). Then value, output and feed-forward weights
    are scaled: in the encoder by 0.67 N^(-1/4), in the decoder by (9N)^(-1/4), N layers on either side.

    The paper draws all of Glorot's weights with gain 1. In the authors' code queries and keys keep fairseq's 1/sqrt(2)
    (query_gain), and values get the sqrt(2) back.

    Args:
        depth: N; by default what the place says.
        side: encoder or decoder; by default what the place says, else encoder.
        query_gain: of queries and keys: 1 in the paper, 0.7071 in the code.
    Example:
        >>> place = Place(shape=(64, 64), role="value", depth=16)
        >>> round(t_fixup().moments(place=place).std / t_fixup().moments(place=Place(shape=(64, 64))).std, 4)
        0.335

    Source: Huang, Perez, Ba and Volkovs 2020 (ICML); layer6ai-labs/T-Fixup, transformer_layer.py.
    """
    many, query_gain = _count("depth", depth), number("query_gain", query_gain, least=0.0)
    half = None if side is None else choice("side", side, ("encoder", "decoder"))

    def glorot(place: Place, gain: float) -> Law:
        return within(gain * math.sqrt(6 / (place.fan_in + place.fan_out)))

    def law(place: Place) -> Law:
        vector = _vector(place)
        if vector is not None:
            return vector
        if place.role == "embedding":
            return Normal((9 * told(place, "depth", many)) ** -0.25 / math.sqrt(place.shape[-1]))
        if place.role in (*SCALED, "query_key_value"):
            layers = told(place, "depth", many)
            scale = (9 * layers) ** -0.25 if (half or place.side) == "decoder" else 0.67 * layers**-0.25
            if place.role == "query_key_value":
                return Parts(place, (glorot(place, query_gain), glorot(place, query_gain), glorot(place, scale)))
            return glorot(place, scale)
        return glorot(place, query_gain if place.role == "query_key" else 1.0)

    return law


@scheme
def deepnorm(
    *,
    encoder_layers: int | None = None,
    decoder_layers: int | None = None,
    side: Literal["encoder", "decoder"] = "decoder",
) -> LawOf:
    """A post-norm transformer of up to a thousand layers: a stronger skip path, and weaker branches.

    Glorot normal with gain b for value, output and feed-forward weights, 1 for queries and keys; the skip path is
    multiplied by a (see `companions`): LayerNorm(a x + F(x)).

    Encoder alone, or decoder alone, N layers: a = (2N)^(1/4), b = (8N)^(-1/4). Encoder of N with decoder of M layers:
    encoder a = 0.81 (N^4 M)^(1/16), b = 0.87 (N^4 M)^(-1/16); decoder a = (3M)^(1/4), b = (12M)^(-1/4).

    Args:
        encoder_layers: N; none where there is no encoder.
        decoder_layers: M; none where there is no decoder. With neither, the depth that the place says.
        side: which one this tensor is in, where there are both.
    Example:
        >>> place = Place(shape=(64, 64), role="feed_forward", depth=2)
        >>> deepnorm().companions(place).residual, round(deepnorm().moments(place=place).std * 8, 6)
        (1.4142135623730951, 0.5)

    Source: Wang et al. 2022 (DeepNet), arXiv:2203.00555, figure 2; microsoft/torchscale divides by 1.15 for 0.87.
    """
    n, m = _count("encoder_layers", encoder_layers), _count("decoder_layers", decoder_layers)
    half = choice("side", side, ("encoder", "decoder"))

    def scales(place: Place) -> tuple[float, float]:
        if n and m and half == "encoder":
            return 0.81 * (n**4 * m) ** (1 / 16), 0.87 * (n**4 * m) ** (-1 / 16)
        if n and m:
            return (3 * m) ** 0.25, (12 * m) ** -0.25
        layers = told(place, "depth", n or m)
        return (2 * layers) ** 0.25, (8 * layers) ** -0.25

    def law(place: Place) -> Law:
        vector = _vector(place)
        if vector is not None:
            return vector
        skip, branch = scales(place)
        beside = Companions(residual=skip)

        def glorot(gain: float) -> Law:
            return Normal(gain * math.sqrt(2 / (place.fan_in + place.fan_out)), companions=beside)

        if place.role == "query_key_value":
            return Parts(place, (glorot(1.0), glorot(1.0), glorot(branch)), companions=beside)
        return glorot(branch if place.role in SCALED else 1.0)

    return law
