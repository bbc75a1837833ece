"""Small models with a catch each: an operation that treats units alike in a way that is easy to miss, or does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

Forward = Callable[[nn.ModuleDict, Tensor], Tensor]


@dataclass(frozen=True)
class Small:
    name: str
    shape: tuple[int, ...]
    parts: Callable[[], dict[str, nn.Module]]
    forward: Forward

    def build(self) -> nn.Module:
        return Built(self).double()

    def __repr__(self) -> str:
        return self.name


class Built(nn.Module):
    def __init__(self, small: Small) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(small.parts())
        self._forward = small.forward

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self.parts, x)


class Raw(nn.Module):
    """A bare parameter."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(*shape))


class Fixed(nn.Module):
    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value)


SMALL: list[Small] = []
VECTORS, IMAGES, SERIES = (5, 3), (2, 3, 4, 4), (2, 4, 3)


def small(name: str, shape: tuple[int, ...], **parts: Callable[[], nn.Module]) -> Callable[[Forward], Forward]:
    def add(forward: Forward) -> Forward:
        SMALL.append(Small(name, shape, lambda: {k: make() for k, make in parts.items()}, forward))
        return forward

    return add


def linear(i: int, o: int, bias: bool = True) -> Callable[[], nn.Module]:
    return lambda: nn.Linear(i, o, bias=bias)


def conv(i: int, o: int, k: int = 3, **options: int) -> Callable[[], nn.Module]:
    return lambda: nn.Conv2d(i, o, k, padding=k // 2, **options)


ENDS = {"a": linear(3, 6), "z": linear(6, 2)}


@small("mlp", VECTORS, a=linear(3, 6), b=linear(6, 5), z=linear(5, 2))
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    return m["z"](torch.tanh(m["b"](torch.tanh(m["a"](x)))))


@small("half of the units through another function", VECTORS, **ENDS)
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    h = m["a"](x)
    return m["z"](torch.cat([torch.tanh(h[:, :3]), torch.sigmoid(h[:, 3:])], 1))


@small("a gate from one half", VECTORS, a=linear(3, 6), z=linear(3, 2))
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    value, gate = m["a"](x).chunk(2, 1)
    return m["z"](value * torch.sigmoid(gate))


@small("units against their mirror", VECTORS, **ENDS)
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    h = torch.tanh(m["a"](x))
    return m["z"](h * h.flip(1) + h.roll(1, 1))


@small("a fixed table over units", VECTORS, t=lambda: Fixed(torch.tensor([1.0, 1, 1, 2, 2, 2])), **ENDS)
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    return m["z"](torch.tanh(m["a"](x) * m["t"].value))


@small("a position of a unit by arange", VECTORS, **ENDS)
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    return m["z"](torch.tanh(m["a"](x)) * (torch.arange(6) < 4).double())


@small("the input added to units", (5, 6), a=linear(6, 6), z=linear(6, 2))
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    return m["z"](torch.tanh(m["a"](x)) + x)


@small("softmax over units", VECTORS, **ENDS)
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    return m["z"](torch.softmax(m["a"](x), 1))


@small("sums running over units", VECTORS, **ENDS)
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    return m["z"](torch.tanh(m["a"](x)).cumsum(1))


@small("the largest two units", VECTORS, a=linear(3, 6), z=linear(2, 2))
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    return m["z"](torch.tanh(m["a"](x)).topk(2, 1).values)


@small("the first of the largest units", VECTORS, **ENDS, y=linear(1, 2))
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    h = torch.tanh(m["a"](x))
    return m["z"](h) + m["y"](h.max(1, keepdim=True).values)


@small("mean of some units", VECTORS, **ENDS)
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    h = torch.tanh(m["a"](x))
    return m["z"](h - h[:, :4].mean(1, keepdim=True))


@small("mean in groups", VECTORS, **ENDS)
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    h = torch.tanh(m["a"](x)).reshape(-1, 2, 3)
    return m["z"]((h - h.mean(2, keepdim=True) + h.amax(2, keepdim=True)).flatten(1))


@small("padded with constants", VECTORS, a=linear(3, 4), z=linear(6, 2))
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    return m["z"](torch.tanh(F.pad(m["a"](x), (0, 2), value=0.5)))


@small("concatenated with the input and themselves", VECTORS, a=linear(3, 4), b=linear(11, 6), z=linear(6, 2))
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    h = torch.tanh(m["a"](x))
    return m["z"](torch.tanh(m["b"](torch.cat([h, x, h * h], 1))))


@small("residual stream with norms", VECTORS, a=linear(3, 6), n=lambda: nn.LayerNorm(6), b=linear(6, 6), z=linear(6, 2))
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    h = m["a"](x)
    return m["z"](h + torch.relu(m["b"](m["n"](h))))


@small("one weight twice", VECTORS, a=linear(3, 6), b=linear(6, 6), z=linear(6, 2))
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    return m["z"](torch.tanh(m["b"](torch.tanh(m["b"](torch.tanh(m["a"](x)))))))


@small("one weight and its transpose", VECTORS, a=linear(3, 6), z=linear(3, 2))
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    h = torch.tanh(m["a"](x))
    return m["z"](torch.tanh(h @ m["a"].weight))


@small("one weight read in two orders", VECTORS, a=linear(3, 6), b=linear(6, 4), z=linear(4, 2))
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    h = torch.tanh(m["a"](x))
    return m["z"](torch.tanh(m["b"](h)) + m["b"](h.flip(1)))


@small("a weight that is also squared", VECTORS, a=linear(3, 6), b=linear(6, 4), z=linear(4, 2))
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    return m["z"](torch.tanh(m["b"](torch.tanh(m["a"](x))))) * (m["b"].weight ** 2).mean()


@small("a row of a weight alone", VECTORS, a=linear(3, 6), b=linear(6, 4), z=linear(4, 2))
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    return m["z"](torch.tanh(m["b"](torch.tanh(m["a"](x))))) * m["b"].weight[1].sum()


@small("a low rank update of a weight", VECTORS, u=lambda: Raw(6, 2), v=lambda: Raw(2, 6), b=linear(6, 6), **ENDS)
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    h = torch.tanh(m["a"](x))
    return m["z"](torch.tanh(F.linear(h, m["b"].weight + m["u"].weight @ m["v"].weight)))


@small("weight norm", VECTORS, a=linear(3, 6), b=lambda: parametrizations.weight_norm(nn.Linear(6, 4)), z=linear(4, 2))
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    return m["z"](torch.tanh(m["b"](torch.tanh(m["a"](x)))))


@small("conv, batch norm, flatten", IMAGES, c=conv(3, 4), n=lambda: nn.BatchNorm2d(4), z=linear(64, 2))
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    return m["z"](torch.relu(m["n"](m["c"](x))).flatten(1))


@small("flatten with channels last", IMAGES, c=conv(3, 4), z=linear(64, 2))
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    return m["z"](torch.relu(m["c"](x)).permute(0, 2, 3, 1).flatten(1))


@small(
    "grouped, depthwise, shuffled", IMAGES, c=conv(3, 4), g=conv(4, 8, groups=2), d=conv(8, 8, groups=8), z=linear(8, 2)
)
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    h = torch.relu(m["g"](m["c"](x)))
    h = h.reshape(2, 2, 4, 4, 4).transpose(1, 2).reshape(2, 8, 4, 4)
    return m["z"](torch.relu(m["d"](h)).mean((2, 3)))


@small("group norm", IMAGES, c=conv(3, 6), n=lambda: nn.GroupNorm(3, 6), z=linear(6, 2))
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    return m["z"](torch.relu(m["n"](m["c"](x))).amax((2, 3)))


@small(
    "dense connections", IMAGES, a=conv(3, 4), b=conv(4, 4), c=conv(8, 4), n=lambda: nn.BatchNorm2d(12), z=linear(12, 2)
)
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    one = torch.relu(m["a"](x))
    two = torch.cat([one, torch.relu(m["b"](one))], 1)
    three = torch.cat([two, torch.relu(m["c"](two))], 1)
    return m["z"](m["n"](three).mean((2, 3)))


@small("pixels to channels and back", IMAGES, a=conv(3, 4), b=conv(16, 8), z=linear(2, 2))
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    h = F.pixel_shuffle(torch.relu(m["b"](F.pixel_unshuffle(torch.relu(m["a"](x)), 2))), 2)
    return m["z"](h.mean((2, 3)))


@small(
    "a map made of units",
    VECTORS,
    a=linear(3, 16),
    c=conv(4, 4),
    t=lambda: nn.ConvTranspose2d(4, 4, 2, 2),
    z=linear(4, 2),
)
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    h = torch.relu(m["a"](x)).reshape(-1, 4, 2, 2)
    return m["z"](torch.relu(m["t"](m["c"](h))).square().mean((2, 3)))


@small("patches merged", IMAGES, a=conv(3, 4), n=lambda: nn.LayerNorm(16), b=linear(16, 6), z=linear(6, 2))
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    h = torch.relu(m["a"](x)).permute(0, 2, 3, 1)
    h = torch.cat([h[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], -1)
    return m["z"](torch.relu(m["b"](m["n"](h))).mean((1, 2)))


@small("squeeze and excite", IMAGES, a=conv(3, 6), s=linear(6, 3), e=linear(3, 6), z=linear(6, 2))
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    h = torch.relu(m["a"](x))
    gate = torch.sigmoid(m["e"](torch.relu(m["s"](h.mean((2, 3))))))
    return m["z"]((h * gate[:, :, None, None]).amax((2, 3)))


@small(
    "instance norm and a prelu",
    IMAGES,
    a=conv(3, 4),
    n=lambda: nn.InstanceNorm2d(4, affine=True),
    p=lambda: nn.PReLU(4),
    z=linear(4, 2),
)
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    return m["z"](m["p"](m["n"](m["a"](x))).amax((2, 3)))


@small("norm of a scaled weight", IMAGES, a=conv(3, 4), b=conv(4, 4), z=linear(4, 2))
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    w = m["b"].weight
    w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.var((1, 2, 3), keepdim=True) + 0.1).sqrt()
    return m["z"](torch.tanh(F.conv2d(torch.relu(m["a"](x)), w, padding=1)).mean((2, 3)))


def heads(h: Tensor, n: int) -> Tensor:
    return h.unflatten(-1, (n, -1)).transpose(1, 2)


ATTENTION = {
    "a": linear(3, 8),
    "q": linear(8, 8),
    "k": linear(8, 8),
    "v": linear(8, 8),
    "o": linear(8, 8),
    "z": linear(8, 2),
}


@small("attention", SERIES, **ATTENTION)
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    h = m["a"](x)
    q, k, v = (heads(m[n](h), 2) for n in "qkv")
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return m["z"](h + m["o"](out.transpose(1, 2).flatten(2)))


@small(
    "attention by hand, fused, with a bias a head",
    SERIES,
    a=linear(3, 8),
    q=linear(8, 24),
    o=linear(8, 8),
    z=linear(8, 2),
    r=lambda: Raw(2, 4, 4),
)
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    h = m["a"](x)
    q, k, v = m["q"](h).reshape(2, 4, 3, 2, 4).permute(2, 0, 3, 1, 4)
    weights = torch.softmax(q @ k.transpose(-2, -1) / 2 + m["r"].weight, -1)
    return m["z"](h + m["o"]((weights @ v).transpose(1, 2).flatten(2)))


@small(
    "rotary attention with grouped heads",
    SERIES,
    a=linear(3, 8),
    q=linear(8, 16),
    k=linear(8, 8),
    v=linear(8, 8),
    o=linear(16, 8),
    z=linear(8, 2),
)
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    h = m["a"](x)
    q, k, v = heads(m["q"](h), 4), heads(m["k"](h), 2), heads(m["v"](h), 2)
    angle = torch.arange(4.0)[:, None] * torch.tensor([1.0, 0.3])
    cos, sin = torch.cat([angle, angle], 1).cos().double(), torch.cat([angle, angle], 1).sin().double()
    turn: Callable[[Tensor], Tensor] = lambda t: t * cos + torch.cat([-t[..., 2:], t[..., :2]], -1) * sin
    k, v = (t[:, :, None].expand(2, 2, 2, 4, 4).reshape(2, 4, 4, 4) for t in (turn(k), v))
    out = F.scaled_dot_product_attention(turn(q), k, v)
    return m["z"](h + m["o"](out.transpose(1, 2).flatten(2)))


@small("linear attention by einsum", SERIES, **ATTENTION)
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    h = m["a"](x)
    q, k, v = (heads(m[n](h), 2) for n in "qkv")
    context = torch.einsum("bhnd,bhne->bhde", k.softmax(-2), v)
    out = torch.einsum("bhnd,bhde->bhne", q.softmax(-1), context)
    return m["z"](h + m["o"](out.transpose(1, 2).flatten(2)))


@small("attention over channels", SERIES, **ATTENTION)
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    h = m["a"](x)
    q, k, v = (m[n](h) for n in "qkv")
    weights = torch.softmax(q.transpose(1, 2) @ k, -1)
    return m["z"](m["o"]((weights @ v.transpose(1, 2)).transpose(1, 2)))


@small(
    "a token in front and a table of positions",
    SERIES,
    a=linear(3, 8),
    c=lambda: Raw(1, 1, 8),
    p=lambda: Raw(1, 5, 8),
    b=linear(8, 8),
    z=linear(8, 2),
)
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    h = torch.cat([m["c"].weight.expand(2, -1, -1), m["a"](x)], 1) + m["p"].weight
    return m["z"](torch.tanh(m["b"](h))[:, 0])


@small(
    "mixing tokens and channels", SERIES, a=linear(3, 6), t=linear(4, 5), u=linear(5, 4), b=linear(6, 6), z=linear(6, 2)
)
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    h = m["a"](x)
    h = h + m["u"](torch.tanh(m["t"](h.transpose(1, 2)))).transpose(1, 2)
    return m["z"](h + torch.tanh(m["b"](h)))


@small("gru", SERIES, g=lambda: nn.GRU(3, 4, batch_first=True), z=linear(4, 2))
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    return m["z"](m["g"](x)[0])


@small(
    "lstm, both ways, two layers, last state",
    SERIES,
    g=lambda: nn.LSTM(3, 4, 2, batch_first=True, bidirectional=True),
    z=linear(4, 2),
)
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    return m["z"](m["g"](x)[1][0].mean(0))


@small("a cell in a loop", SERIES, g=lambda: nn.GRUCell(3, 4), z=linear(4, 2))
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    h = x.new_zeros(2, 4)
    for t in range(4):
        h = m["g"](x[:, t], h)
    return m["z"](h)


@small(
    "experts in a stack",
    VECTORS,
    a=linear(3, 4),
    r=linear(4, 3),
    u=lambda: Raw(3, 4, 5),
    d=lambda: Raw(3, 5, 4),
    z=linear(4, 2),
)
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    h = torch.tanh(m["a"](x))
    gate = torch.softmax(m["r"](h), -1)
    inner = torch.tanh(torch.bmm(h.expand(3, -1, -1), m["u"].weight))
    out = torch.bmm(inner, m["d"].weight)
    return m["z"](h + torch.einsum("be,ebd->bd", gate, out))


@small("a weight for each head", SERIES, a=linear(3, 8), w=lambda: Raw(2, 4, 4), z=linear(8, 2))
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    h = torch.tanh(m["a"](x)).unflatten(-1, (2, 4))
    return m["z"](torch.tanh(torch.einsum("bnhd,hde->bnhe", h, m["w"].weight)).flatten(2))


@small(
    "a weight that all heads share", SERIES, a=linear(3, 8), b=linear(4, 4), n=lambda: nn.LayerNorm(4), z=linear(8, 2)
)
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    h = torch.tanh(m["a"](x)).unflatten(-1, (2, 4))
    return m["z"](torch.tanh(m["n"](h) + m["b"](h)).flatten(2))


@small("a state space", SERIES, a=linear(3, 4), l=lambda: Raw(4, 3), b=linear(4, 3), c=linear(4, 3), z=linear(4, 2))
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    h = torch.tanh(m["a"](x))
    decay, into, out = torch.sigmoid(m["l"].weight), m["b"](h), m["c"](h)
    state, seen = h.new_zeros(2, 4, 3), []
    for t in range(4):
        state = state * decay + h[:, t, :, None] * into[:, t, None, :]
        seen.append((state * out[:, t, None, :]).sum(-1))
    return m["z"](torch.stack(seen, 1))


@small("written into a part", VECTORS, **ENDS)
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    h = torch.tanh(m["a"](x)).clone()
    h[:, 4:] = h[:, 4:] * 2
    return m["z"](h)


@small("picked by a fixed index", VECTORS, a=linear(3, 6), z=linear(4, 2))
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    return m["z"](torch.tanh(m["a"](x))[:, torch.tensor([5, 0, 2, 0])])


@small("picked by data", VECTORS, a=linear(3, 6), z=linear(2, 2))
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    index = (x[:, :2] > 0).long() * 3
    return m["z"](torch.tanh(m["a"](x)).gather(1, index))


@small("an operation without a rule", VECTORS, **ENDS)
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    return m["z"](torch.fft.rfft(torch.tanh(m["a"](x)), dim=1).abs().repeat(1, 2)[:, :6])


@small("images over channels last with a linear on width", IMAGES, a=conv(3, 4), w=linear(4, 4), z=linear(4, 2))
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    h = m["a"](x)
    return m["z"](torch.tanh(h + m["w"](torch.tanh(h))).mean((2, 3)))


@small("repeated units", VECTORS, a=linear(3, 3), z=linear(6, 2))
def _(m: nn.ModuleDict, x: Tensor) -> Tensor:
    h = torch.tanh(m["a"](x))
    return m["z"](h.repeat(1, 2)) + m["z"](h.repeat_interleave(2, 1))
