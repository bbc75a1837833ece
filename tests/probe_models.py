"""Models as people write them, with torch's own start: what the probe must run, leave untouched, and call healthy."""

import random
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

Pair = namedtuple("Pair", "left right")
_CASES: dict[str, "Case"] = {}


@dataclass(frozen=True)
class Case:
    """A model, its batch and its loss or objective, built anew at each call."""

    name: str
    build: Callable[[], nn.Module]
    batch: Callable[[], Any]
    loss: Any = None
    objective: Any = None
    healthy: bool = True
    dtype: str = "float64"

    def __repr__(self) -> str:
        return self.name


def case(
    name: str, batch: Callable[[], Any], **options: Any
) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    def add(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        assert name not in _CASES
        _CASES[name] = Case(name, build, batch, **options)
        return build

    return add


def rows(n: int = 16, d: int = 6, seed: int = 0) -> Callable[[], Tensor]:
    return lambda: torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def labelled() -> Any:
    return rows()(), torch.arange(16) % 3


def tokens() -> Tensor:
    return torch.randint(0, 11, (8, 7), generator=torch.Generator().manual_seed(0))


def sequence() -> Tensor:
    return torch.randn(6, 5, 8, generator=torch.Generator().manual_seed(0))


def images() -> Tensor:
    return torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 3))


def conv() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.GELU(), nn.Conv2d(8, 8, 3), nn.GELU(), nn.Flatten(), nn.Linear(128, 4)
    )


class Wrap(nn.Module):
    """A small network around one changed piece of forward."""

    def __init__(self, forward: Callable[[Any, Tensor], Any] | None = None, **attributes: Any) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 12), nn.Linear(12, 3)
        self.piece = forward
        for key, thing in attributes.items():
            setattr(self, key, thing)

    def forward(self, x: Tensor) -> Any:
        hidden = torch.tanh(self.first(x))
        return self.second(self.piece(self, hidden) if self.piece is not None else hidden)


# ---- the usual layers -----------------------------------------------------------------------------------------------

case("mlp", labelled, loss=F.cross_entropy)(mlp)
case("mlp, made-up batch", lambda: None)(mlp)
case("weighted loss module", labelled, loss=nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5])))(mlp)
case("conv and batch norm", images)(conv)
case("eval mode", images)(lambda: conv().eval())
case("half", rows())(lambda: mlp().half())
case("bfloat16", rows())(lambda: mlp().bfloat16())


@case("frozen batch norm", images)
def frozen_batch_norm() -> nn.Module:
    model = conv()
    model[1].eval()
    for p in model[1].parameters():
        p.requires_grad_(False)
    return model


@case("in-place activation", rows(32))
def in_place() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 32), nn.LeakyReLU(inplace=True), nn.Linear(32, 3), nn.ELU(inplace=True))


@case("tied autoencoder", tokens)
def tied() -> nn.Module:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.mix, self.head = nn.Embedding(11, 8), nn.Linear(8, 8), nn.Linear(8, 11, bias=False)
            self.head.weight = self.embed.weight
            self.shortcut = [self.head.weight]

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(torch.tanh(self.mix(self.embed(x)))) + 0.1 * self.shortcut[0].sum()
            return out

    return Tied()


class Attend(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True, **options), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(x + self.attention(x, x, x, need_weights=False)[0])
        return out


case("multi-head attention", sequence)(Attend)
case("attention, separate projections", sequence)(lambda: Attend(kdim=8, vdim=8, dropout=0.1))
case("transformer encoder", sequence)(
    lambda: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu"), 2, enable_nested_tensor=False
    )
)
case("transformer", lambda: (sequence(), sequence()))(
    lambda: nn.Transformer(8, 2, 1, 1, 16, batch_first=True, activation=F.gelu)
)


class Recur(nn.Module):
    def __init__(self, core: nn.Module) -> None:
        super().__init__()
        self.core, self.head = core, nn.Linear(8 * (2 if getattr(core, "bidirectional", False) else 1), 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.core(x)[0])
        return out


case("LSTM", sequence)(lambda: Recur(nn.LSTM(8, 8, 2, batch_first=True, dropout=0.2)))
case("GRU", sequence)(lambda: Recur(nn.GRU(8, 8, batch_first=True, bidirectional=True)))
case("RNN", sequence)(lambda: Recur(nn.RNN(8, 8, batch_first=True)))


@case("weight norm", rows())
def weight_norm() -> nn.Module:
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 12)), nn.Tanh(), nn.Linear(12, 3))


@case("spectral norm", rows())
def spectral_norm() -> nn.Module:
    return nn.Sequential(parametrizations.spectral_norm(nn.Linear(6, 12)), nn.Tanh(), nn.Linear(12, 3))


@case("weight norm by hook", rows())
def old_weight_norm() -> nn.Module:
    return nn.Sequential(nn.utils.weight_norm(nn.Linear(6, 12)), nn.Tanh(), nn.Linear(12, 3))


@case("spectral norm by hook", rows())
def old_spectral_norm() -> nn.Module:
    return nn.Sequential(nn.utils.spectral_norm(nn.Linear(6, 12)), nn.Tanh(), nn.Linear(12, 3))


class Checkpointed(nn.Module):
    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.first, self.block, self.head = nn.Linear(6, 8), mlp(), nn.Linear(3, 3)
        self.block[0] = nn.Linear(8, 12)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(x))
        out: Tensor = self.head(checkpoint(self.block, hidden, use_reentrant=self.reentrant))
        return out


case("checkpointed", labelled, loss=F.cross_entropy)(lambda: Checkpointed(reentrant=False))
case("checkpointed, reentrant", labelled, loss=F.cross_entropy)(lambda: Checkpointed(reentrant=True))
case("scripted", rows(), dtype="float32")(lambda: torch.jit.script(mlp()))
case("data parallel", rows())(lambda: nn.DataParallel(mlp()))
case("compiled wrapper", rows())(lambda: torch.compile(mlp()))
case("compiled part", rows())(lambda: nn.Sequential(torch.compile(nn.Linear(6, 4)), nn.Tanh(), nn.Linear(4, 3)))


@case("complex", rows())
def complex_weights() -> nn.Module:
    class Complex(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(5, 6, dtype=torch.complex64) / 6**0.5)
            self.head = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head((x.to(self.weight.dtype) @ self.weight.t()).abs())
            return out

    return Complex()


# ---- outputs of every shape, losses inside --------------------------------------------------------------------------


@dataclass
class Result:
    logits: Tensor
    hidden: list[Tensor] = field(default_factory=list)
    loss: Tensor | None = None
    note: str = "kept"


class Returns(nn.Module):
    def __init__(self, form: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.net, self.form = mlp(), form

    def forward(self, x: Tensor) -> Any:
        out = self.net(x)
        return self.form(out, F.cross_entropy(out, torch.arange(len(x)) % 3))


case("returns a dict", rows())(lambda: Returns(lambda out, loss: {"a": {"b": [out]}, "n": 3, "none": None}))
case("returns a dict with its loss", rows())(lambda: Returns(lambda out, loss: {"logits": out, "loss": loss}))
case("returns a dataclass", rows())(lambda: Returns(lambda out, loss: Result(out, [out * 2])))
case("returns a dataclass with its loss", rows())(lambda: Returns(lambda out, loss: Result(out, loss=loss)))
case("returns a named tuple", rows())(lambda: Returns(lambda out, loss: Pair(out, (out.exp(), {"k": out}))))
case("returns an object", rows())(lambda: Returns(lambda out, loss: SimpleNamespace(logits=out)))
case("returns its loss", rows())(lambda: Returns(lambda out, loss: loss))

# ---- float32 made inside --------------------------------------------------------------------------------------------

case("zeros of float32", rows())(lambda: Wrap(lambda m, h: h @ torch.eye(12, dtype=torch.float32) + torch.zeros(12)))
case("casts to float32", rows())(lambda: Wrap(lambda m, h: (h.float() @ torch.eye(12, dtype=torch.float32)).type_as(h)))
case("float32 attribute", rows())(lambda: Wrap(lambda m, h: h @ m.table, table=torch.eye(12)))
case("float32 in a tuple", rows())(lambda: Wrap(lambda m, h: h @ m.pair.left, pair=Pair(torch.eye(12), 1)))
case("float32 in a helper", rows())(lambda: Wrap(lambda m, h: h @ m.cache.t, cache=SimpleNamespace(t=torch.eye(12))))
case("float32 in a closure", rows())(lambda: Wrap((lambda eye: lambda m, h: h @ eye)(torch.eye(12))))
case("module hidden in a list", rows())(lambda: Wrap(lambda m, h: m.hidden[0](h), hidden=[nn.Linear(12, 12)]))


@case("float32 buffers", rows())
def float32_buffers() -> nn.Module:
    model = Wrap(lambda m, h: h @ m.kept + m.passing)
    model.register_buffer("kept", torch.eye(12))
    model.register_buffer("passing", torch.ones(12), persistent=False)
    model.register_buffer("none", None)
    model.register_buffer("adjacency", torch.eye(12).to_sparse())
    return model


# ---- random parts ---------------------------------------------------------------------------------------------------


def drop_path(m: Any, h: Tensor) -> Tensor:
    keep = h.new_empty(h.shape[0], 1).bernoulli_(0.8) / 0.8
    return h + keep * torch.tanh(m.extra(h)) if m.training else h


def router(m: Any, h: Tensor) -> Tensor:
    scores = m.extra(h) + 0.1 * torch.randn_like(m.extra(h))
    return h * torch.softmax(scores, -1)


case("dropout", rows(32))(lambda: nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Dropout(0.3), nn.Linear(32, 3)))
case("rand in forward", rows())(lambda: Wrap(lambda m, h: h + 0.1 * torch.rand(h.shape) + 0.1 * torch.rand_like(h)))
case("gumbel", rows(64))(lambda: Wrap(lambda m, h: F.gumbel_softmax(h, tau=1.0)))
case("drop path", rows(64))(lambda: Wrap(drop_path, extra=nn.Linear(12, 12)))
case("noisy router", rows(64))(lambda: Wrap(router, extra=nn.Linear(12, 12)))
case("numpy and random", rows())(lambda: Wrap(lambda m, h: h * (1 + 0.1 * np.random.rand() + 0.1 * random.random())))
case("own generators", rows())(
    lambda: Wrap(
        lambda m, h: (
            h * (1 + 0.1 * torch.rand(12, generator=m.g[0]) + m.g[1].random() + m.g[2].rand() + m.g[3].random())
        ),
        g=(torch.Generator().manual_seed(3), np.random.default_rng(3), np.random.RandomState(3), random.Random(3)),
    )
)

# ---- state that moves in forward ------------------------------------------------------------------------------------


def counts(m: Any, h: Tensor) -> Tensor:
    m.calls += 1
    m.history.append(h.detach())
    m.nested["inner"].append(m.calls)
    m.nested[m.calls] = h
    m.helper.calls += 1
    m.helper.tensor.add_(1)
    m.table.mul_(1.01)
    m.array += 1
    m.appeared = h
    return h


case("counts its calls", rows())(
    lambda: Wrap(
        counts, calls=0, history=[], nested={"inner": []}, table=torch.ones(3), array=np.zeros(3),
        helper=SimpleNamespace(calls=0, tensor=torch.zeros(3)),
    )
)  # fmt: skip


def reassigns(m: Any, h: Tensor) -> Tensor:
    m.total = m.total + h.detach().mean(0)
    m.steps += 1
    del m._buffers["other"]
    m.register_buffer("other", torch.zeros(3))
    return h + 0 * m.total.to(h)


@case("reassigns a buffer", rows())
def reassigns_a_buffer() -> nn.Module:
    model = Wrap(reassigns)
    for name, start in (("other", torch.ones(3)), ("total", torch.zeros(12)), ("steps", torch.tensor(0))):
        model.register_buffer(name, start)
    return model


def meddles(m: Any, h: Tensor) -> Tensor:
    m.second.eval()
    m.first.bias.requires_grad_(True)
    m.first.weight.register_hook(lambda g: g)
    m.second.register_forward_hook(lambda *_: None)
    m.first.weight.note = "seen"
    return h


case("meddles with hooks and modes", rows())(lambda: Wrap(meddles))


@case("grads and hooks of the user", rows())
def with_user_hooks() -> nn.Module:
    model = mlp()
    model(rows()()).sum().backward()
    log: list[Any] = []
    model[0].register_forward_hook(lambda m, i, o: log.append("forward"))
    model[0].register_full_backward_hook(lambda m, i, o: log.append("backward"))
    model[0].weight.register_hook(lambda g: log.append("tensor"))
    model[2].weight.register_hook(lambda g: g * torch.ones(3, 1))
    model[2].weight.register_post_accumulate_grad_hook(lambda p: log.append("accumulated") or p.data.zero_())
    model.log = log
    return model


class Scripted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.calls = nn.Linear(6, 3), 0
        self.register_buffer("total", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        out = self.net(x)
        self.total = self.total + out.detach().mean(0)
        self.total += 1
        return out


case("scripted with state", rows(), dtype="float32")(lambda: torch.jit.script(Scripted()).eval())


@case("inference tensors", rows())
def inference_tensors() -> nn.Module:
    with torch.inference_mode():
        table = torch.eye(12)
    return Wrap(lambda m, h: h @ m.table, table=table)


CASES = tuple(_CASES.values())
