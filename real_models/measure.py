"""Check one real model in this process and write down what came of it.

`python -m real_models.measure NAME...` is the worker that `run` starts, one a library: importing it is paid once.
It prints a line of JSON when it starts a model and one when it is done with it.
"""

import gc
import json
import os
import sys
import time
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from real_models import zoo

MEMORY_COUNTERS = Path("/proc/self")


@dataclass
class Row:
    """One line of the table. `error` is empty where the model was built and checked."""

    name: str
    verdict: str = ""
    findings: list[dict[str, str]] = field(default_factory=list)
    seconds: float = 0.0
    build_seconds: float = 0.0
    passes: float = 0.0
    tensors: int = 0
    parameters: int = 0
    dtype: str = ""
    peak_mb: int = 0
    published: bool = False
    error: str = ""


def measure(name: str, smoke: bool = False, published: bool = False) -> Row:
    """Build and check a model; an exception becomes the row's error, because the next model is to be seen as well.

    Args:
        smoke: one plain forward and backward pass in place of the check.
        published: at the size of `zoo/published.py`, not the list's small one.
    """
    row = Row(name, published=published)
    gc.collect()  # the last model, so that its memory is not counted for this one
    start = time.perf_counter()
    try:
        case = zoo.build(name, entries=zoo.PUBLISHED) if published else zoo.build(name)
        row.build_seconds = time.perf_counter() - start
        trainable = [p for p in case.model.parameters() if p.requires_grad]
        row.tensors, row.parameters = len(trainable), sum(p.numel() for p in trainable)
        forget_peak_memory()
        start = time.perf_counter()
        if smoke:
            run_once(case)
        else:
            check(case, row)
    except Exception as error:
        row.error = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    row.seconds = time.perf_counter() - start
    row.peak_mb = peak_memory_mb()
    return row


def check(case: zoo.Case, row: Row) -> None:
    import symbreak

    report = symbreak.check(case.model, case.batch, objective=case.objective)
    row.verdict, row.passes = report.verdict, report.passes
    row.dtype = str(report.dtype).removeprefix("torch.")
    row.findings = [
        {"code": f.code, "slug": f.slug, "severity": f.severity, "where": f.where, "because": f.because}
        for f in report.findings
    ]


def run_once(case: zoo.Case) -> None:
    """One plain forward and backward pass, so that a builder can be seen to work without a check."""
    generic_loss(case, case.batch).backward()
    if not any(p.grad is not None for p in case.model.parameters()):
        raise RuntimeError("no parameter has a gradient")


def generic_loss(case: zoo.Case, batch: Any) -> Tensor:
    """The model's own objective, or the mean square of every floating-point output."""
    if case.objective is not None:
        return case.objective(case.model, batch)
    return mean_square(case.forward(batch))


def mean_square(output: Any) -> Tensor:
    leaves = [leaf for leaf in tree_leaves(plain(output)) if isinstance(leaf, Tensor) and leaf.grad_fn is not None]
    return torch.stack([leaf.abs().pow(2).mean() for leaf in leaves]).sum()


def plain(output: Any) -> Any:
    """Library output classes as dicts, lists and tensors."""
    if isinstance(output, Tensor | nn.Module) or output is None:
        return output
    if hasattr(output, "items"):
        return {key: plain(part) for key, part in output.items()}
    if isinstance(output, list | tuple):
        return [plain(part) for part in output]
    return [plain(part) for part in vars(output).values()] if hasattr(output, "__dict__") else output


def forget_peak_memory() -> None:
    """Linux: start a new high-water mark. Elsewhere the number stays 0."""
    try:
        (MEMORY_COUNTERS / "clear_refs").write_text("5")
    except OSError:
        return


def peak_memory_mb() -> int:
    try:
        status = (MEMORY_COUNTERS / "status").read_text()
    except OSError:
        return 0
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


def main() -> None:
    flags = {flag: f"--{flag}" in sys.argv for flag in ("smoke", "published")}
    warnings.filterwarnings("ignore")
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # libraries greet on standard output; only answers go there
    for name in (argument for argument in sys.argv[1:] if not argument.startswith("--")):
        answers.write(json.dumps({"started": name}) + "\n")
        answers.write(json.dumps(asdict(measure(name, **flags))) + "\n")


if __name__ == "__main__":
    main()
