"""What the papers of data-dependent starts claim, and what is measured here at small size; "auto" on real models; time.

    python benchmarks/starts.py [claims] [models] [time] [--markdown docs/starts.md]

Without names all three, which is how docs/starts.md was written. `--markdown` writes each table between its markers of
that page once all are there, and with all three the command, torch's version and the processor time it took. Whether a
claim holds is decided by the numbers, by the rule that stands beside each.
"""

from __future__ import annotations

import argparse
import copy
import math
import re
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from real_models.table import put_between
from real_models.zoo import build

import symbreak as sb
from symbreak.schemes import fans_of

STEPS, SEEDS, TURNS = 200, range(5), 7
RATES = (0.02, 0.1, 0.3)  # learning rates tried where each start is given its best
MODELS = [
    "timm.test_resnet", "timm.vit_tiny_patch16_224", "tv.resnet18", "tv.densenet121", "tv.vgg11", "tv.swin_t",
    "hf.bert", "hf.gpt2.CausalLM", "hf.llama.CausalLM", "hf.t5.Seq2SeqLM", "hf.mamba.CausalLM", "peft.lora", "diff.DiT",
    "torch.LSTM-LM",
]  # fmt: skip
BROKEN = [
    "torch.MLP-relu",
    "torch.MLP-tanh",
    "hf.gpt2.CausalLM",
    "timm.test_resnet",
    "timm.vit_tiny_patch16_224",
    "hf.bert",
]


def digits() -> tuple[Tensor, Tensor]:
    X, y = load_digits(return_X_y=True)
    X = (X - X.mean(0)) / (X.std(0) + 1e-9)
    return torch.tensor(X, dtype=torch.float32), torch.tensor(y)


X, Y = digits()
LOSS = nn.CrossEntropyLoss()


def mlp(depth: int, width: int, phi: Callable[[], nn.Module]) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(64, width)]
    for _ in range(depth - 2):
        layers += [phi(), nn.Linear(width, width)]
    return nn.Sequential(*layers, phi(), nn.Linear(width, 10))


def trained(model: nn.Module, seed: int, lr: float = 0.02) -> float:
    """Loss over all digits after some steps of SGD."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    for _ in range(STEPS):
        rows = torch.randint(0, len(X), (128,), generator=generator)
        optimizer.zero_grad()
        loss = LOSS(model(X[rows]), Y[rows])
        if not bool(loss.isfinite()):
            return math.inf
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return float(LOSS(model(X), Y))


def runs(build_: Callable[[], nn.Module], scheme: str | None, lr: float) -> list[float]:
    """The loss after training, a seed at a time."""
    found = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        model = build_()
        if scheme is not None:
            sb.init_(model, scheme, (X[:256], Y[:256]), loss=LOSS, generator=torch.Generator().manual_seed(seed))
        found.append(trained(model, seed, lr))
    return found


def shown(losses: list[float]) -> str:
    return f"{statistics.median(losses):.3g} ({min(losses):.3g} to {max(losses):.3g})"


def better(ours: list[float], others: list[float]) -> str:
    """Yes: the worst seed is better than the best without the scheme. Else by the medians."""
    if max(ours) < min(others):
        return "yes"
    return "at the median" if statistics.median(ours) < statistics.median(others) else "no"


def yes(holds: bool) -> str:
    return "yes" if holds else "no"


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?(?:e[-+]?\d+)?", text)]


def layers(model: nn.Module, x: Any) -> dict[str, Tensor]:
    """Layer -> output [b, o], by hooks."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, out: Tensor) -> None:  # noqa: ARG001 (a hook's signature)
            found[name] = out.detach().movedim(1, -1).flatten(0, -2) if out.dim() == 4 else out.detach()

        return hook

    hooks = [m.register_forward_hook(keep(n)) for n, m in model.named_modules() if type(m) in (nn.Linear, nn.Conv2d)]
    with torch.no_grad():
        model(x)
    for handle in hooks:
        handle.remove()
    return found


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- claims ----------------------------------------------------------------------------------------------------------


def claims() -> Iterator[tuple[str, str, str, str]]:
    """(scheme, what its paper claims, what is measured, whether it holds)."""
    torch.manual_seed(0)
    net = mlp(30, 64, nn.ReLU)
    sb.init_(net, "lsuv", X[:256], generator=generator())
    worst = max(abs(float(o.var()) - 1) for o in layers(net, X[:256]).values())
    measured = f"30 layers: largest departure {worst:.2g}"
    yield "lsuv", "variance 1 of every layer's output, within 0.02", measured, yes(worst < 0.02)
    for name, phi in (("ReLU", nn.ReLU), ("tanh", nn.Tanh)):
        default, ours = (runs(lambda phi=phi: mlp(30, 64, phi), s, 0.02) for s in (None, "lsuv"))
        yield (
            "lsuv",
            f"a deep net without normalisation trains ({name}, 30 layers, digits, {STEPS} steps)",
            f"loss, median of {len(SEEDS)} seeds (range): torch's default {shown(default)}, lsuv {shown(ours)}",
            better(ours, default),
        )
    net = mlp(6, 64, nn.ReLU)
    sb.init_(net, "krahenbuhl(between=False)", X[:256], generator=generator())
    units = torch.cat([o.mean(0) - 0.1 for o in layers(net, X[:256]).values()])
    spread = torch.cat([o.std(0, unbiased=False) - 1 for o in layers(net, X[:256]).values()])
    yield (
        "krahenbuhl",
        "every unit has mean beta and deviation 1",
        f"largest departures {float(units.abs().max()):.1g} and {float(spread.abs().max()):.1g}",
        yes(max(float(units.abs().max()), float(spread.abs().max())) < 1e-3),
    )
    start = sb.init_(mlp(6, 64, nn.ReLU), "krahenbuhl(tol=0.02)", (X[:256], Y[:256]), loss=LOSS, generator=generator())
    before, after, *_ = numbers(start.notes[-1])
    yield "krahenbuhl", "all layers change at one rate", start.notes[-1], yes(after < min(before, 1.1))
    net = mlp(6, 64, nn.Tanh)
    sb.init_(net, "weight_norm_data", X[:256], generator=generator())
    outs = list(layers(net, X[:256]).values())
    off = (
        max(float(o.mean(0).abs().max()) for o in outs),
        max(float((o.std(0, unbiased=False) - 1).abs().max()) for o in outs),
    )
    yield (
        "weight_norm_data",
        "pre-activations of mean 0 and variance 1",
        f"largest departures {off[0]:.1g} and {off[1]:.1g}",
        yes(max(off) < 1e-3),
    )
    yield from _learned()
    yield from _analytic()


def _learned() -> Iterator[tuple[str, str, str, str]]:
    for gain in (0.5, 2.5, 4.0):
        yield from _metainit(f"kaiming_normal(gain={gain})")
    deep = "kaiming_normal(gain=2.0)"
    notes = sb.init_(
        mlp(12, 64, nn.ReLU), f"gradinit(steps=200, learning_rate=0.03, start={deep!r})", (X[:256], Y[:256]), loss=LOSS,
        generator=generator(),
    ).notes  # fmt: skip
    _, norm, bound, _, before, after, *_ = numbers(notes[-1])
    yield (
        "gradinit",
        "the loss after one step falls, and the gradient's norm keeps its bound",
        f"12 ReLU layers from {deep}: {notes[-1]}",
        yes(after < before and norm <= 1.05 * bound),
    )
    plain = runs(lambda: mlp(12, 64, nn.ReLU), deep, 0.02)
    ours = runs(lambda: mlp(12, 64, nn.ReLU), f"gradinit(steps=200, learning_rate=0.03, start={deep!r})", 0.02)
    yield (
        "gradinit",
        f"training is easier (12 ReLU layers from {deep}, digits, {STEPS} steps)",
        f"loss, median of {len(SEEDS)} seeds (range): as drawn {shown(plain)}, gradinit {shown(ours)}",
        better(ours, plain),
    )


def _metainit(start: str) -> Iterator[tuple[str, str, str, str]]:
    """From one start: does the quotient fall, and is training better, each net at its best of some learning rates?"""
    quotients, ours, plain = [], [], []
    for seed in SEEDS:
        nets = []
        for scheme in (start, f"metainit(start={start!r})"):
            torch.manual_seed(seed)
            nets.append(mlp(12, 32, nn.Tanh))
            done = sb.init_(nets[-1], scheme, (X[:128], Y[:128]), loss=LOSS, generator=generator(seed))
        quotients.append(numbers(done.notes[-1])[:2])
        for net, losses in zip(nets, (plain, ours), strict=True):
            losses.append(min(trained(copy.deepcopy(net), seed, lr) for lr in RATES))
    before, after = ([pair[i] for pair in quotients] for i in (0, 1))
    yield (
        "metainit",
        f"the gradient quotient falls (12 tanh layers from {start}, the paper's 500 steps)",
        f"median of {len(SEEDS)} seeds (range): from {shown(before)} to {shown(after)}",
        yes(all(end < begin for begin, end in quotients)),
    )
    yield (
        "metainit",
        f"a net without normalisation trains from a bad start (the same nets, digits, {STEPS} steps)",
        f"loss, median of {len(SEEDS)} seeds (range): as drawn {shown(plain)}, metainit {shown(ours)}",
        better(ours, plain),
    )


def _analytic() -> Iterator[tuple[str, str, str, str]]:
    from tests.starts.test_analytic import CASES

    for name, (make, x, tolerance) in CASES.items():
        yield _moments(name, make, x, tolerance)
    for pool in ("max pool", "mean pool"):
        make, x, _ = CASES[f"convolutions, {pool}"]
        yield _moments(f"the same convolutions around a circle, {pool}", lambda make=make: _around(make()), x, 0.25)


def _around(model: nn.Module) -> nn.Module:
    """Circular padding instead of zeros."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.padding_mode = "circular"
            module._reversed_padding_repeated_twice = [n for n in reversed(module.padding) for _ in range(2)]
    return model


def _moments(name: str, make: Callable[[], nn.Module], x: Tensor, tolerance: float) -> tuple[str, str, str, str]:
    from tests.starts.test_analytic import second_moments

    total: dict[str, float] = {}
    default: dict[str, float] = {}
    for seed in range(10):
        torch.manual_seed(seed)
        model = make()
        for layer, size in second_moments(model, x).items():
            default[layer] = default.get(layer, 0.0) + size / 10
        sb.init_(model, "analytic", x, generator=generator(seed))
        for layer, size in second_moments(model, x).items():
            total[layer] = total.get(layer, 0.0) + size / 10
    return (
        "analytic",
        f"every layer's output has second moment 1, within {tolerance:g}: {name}, {len(total)} layers",
        f"mean of 10 seeds: {min(total.values()):.2f} to {max(total.values()):.2f} "
        f"(torch's default {min(default.values()):.2g} to {max(default.values()):.2g})",
        yes(max(abs(size - 1) for size in total.values()) <= tolerance),
    )


# ---- real models -----------------------------------------------------------------------------------------------------


def models() -> Iterator[tuple[str, str, str, str]]:
    """(model, what was done to it, verdict before and after, what "auto" wrote)."""
    for name in MODELS:
        case = build(name)
        yield _started(name, "as built", case)
    for name in BROKEN:
        for fault, harm in FAULTS.items():
            case = build(name)
            with torch.no_grad():
                harm(case.model)
            yield _started(name, fault, case)


def _started(name: str, fault: str, case: Any) -> tuple[str, str, str, str]:
    before = sb.check(case.model, case.batch, objective=case.objective).verdict
    started = time.perf_counter()
    start = sb.init_(case.model, "auto", case.batch, generator=generator())
    seconds = time.perf_counter() - started
    after = sb.check(case.model, case.batch, objective=case.objective).verdict
    return name, fault, f"{before} -> {after}", f"{len(start.changed)} of {len(start)} tensors, {seconds:.1f} s"


def _of_layers(model: nn.Module) -> Iterator[nn.Parameter]:
    """Weights between units, and their biases: linear layers, transformers' Conv1D, convolutions, attention."""
    for module in model.modules():
        for name, p in module.named_parameters(recurse=False):
            if fans_of(module, name) is not None:
                yield p


def _zero(model: nn.Module) -> None:
    for p in _of_layers(model):
        p.zero_()


def _constant(model: nn.Module) -> None:
    for p in _of_layers(model):
        p.fill_(0.05)


def _unwritten(model: nn.Module) -> None:
    next(p for p in model.parameters() if p.dim() > 1).fill_(float("nan"))


FAULTS: dict[str, Callable[[nn.Module], None]] = {
    "all layers zero": _zero,
    "all layers 0.05": _constant,
    "first weight NaN": _unwritten,
}


# ---- time ------------------------------------------------------------------------------------------------------------


def cost(millions: int = 100) -> Iterator[tuple[str, ...]]:
    """(scheme, seconds of init_, its time and processor time over those of torch.nn.init's own fill).

    A turn is both, one right after the other; the ratios are medians over turns, with their range. The processor's time
    counts the second thread, too, which keeps the old values: it is what `init_` costs where no second core is free.
    """
    blocks = max(1, round(millions / 12.6))
    shapes = [(1024, 3072), (1024, 1024), (1024, 4096), (4096, 1024)] * blocks
    model = nn.Sequential(*(nn.Linear(i, o) for i, o in shapes))
    fills: dict[str, Callable[[Tensor], Any]] = {
        "kaiming_normal": lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu"),
        "xavier_uniform": nn.init.xavier_uniform_,
        "normal(0.02)": lambda w: nn.init.normal_(w, std=0.02),
        "torch_default": lambda w: nn.init.kaiming_uniform_(w, a=math.sqrt(5)),
    }
    for scheme, fill in fills.items():
        ours, walls, works = [], [], []
        for _ in range(TURNS):
            wall, work = _timed(lambda fill=fill: _filled(model, fill))
            ours.append(_timed(lambda scheme=scheme: sb.init_(model, scheme)))
            walls.append(ours[-1][0] / wall)
            works.append(ours[-1][1] / work)
        seconds = statistics.median(wall for wall, _ in ours)
        yield scheme, f"{seconds:.2f} s", *(_spread(ratios) for ratios in (walls, works))


def _filled(model: nn.Sequential, fill: Callable[[Tensor], Any]) -> None:
    for layer in model:
        fill(layer.weight)
        nn.init.zeros_(layer.bias)


def _timed(do: Callable[[], Any]) -> tuple[float, float]:
    """Seconds on the wall, and of the processor."""
    wall, work = time.perf_counter(), time.process_time()
    do()
    return time.perf_counter() - wall, time.process_time() - work


def _spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


TABLES: dict[str, tuple[tuple[str, ...], Callable[[], Iterator[tuple[str, ...]]]]] = {
    "claims": (("scheme", "claim", "measured", "holds"), claims),
    "models": (("model", "start", "verdict before and after", "written by auto"), models),
    "time": (("scheme", "init_", "times torch.nn.init's fill", "the same in processor time"), cost),
}


def table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    print("\n".join(lines), flush=True)
    for row in rows:
        lines.append("| " + " | ".join(row) + " |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(TABLES)}; none: all of them")
    parser.add_argument("--markdown", metavar="FILE", help="write the tables between the markers of this page")
    options = parser.parse_args()
    unknown = set(options.names) - set(TABLES)
    if unknown:
        parser.error(f"no table is called {', '.join(unknown)}; there are {', '.join(TABLES)}")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    found = {name: table(TABLES[name][0], TABLES[name][1]()) for name in options.names or TABLES}
    if options.markdown:
        page = Path(options.markdown)
        for name, rows in found.items():
            put_between(page, *_marks(name), rows)
        if set(found) == set(TABLES):
            put_between(page, *_marks("run"), _run())


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- begin: {name}, written by benchmarks/starts.py -->", f"<!-- end: {name} -->"


def _run() -> str:
    return (
        f"```\npython benchmarks/starts.py --markdown docs/starts.md\n```\n\ntorch {torch.__version__}, one thread; "
        f"all three tables in one run, {time.process_time() / 60:.0f} minutes of processor time."
    )


if __name__ == "__main__":
    main()
