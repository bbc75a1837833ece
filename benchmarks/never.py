"""How many "never" are proved: `python -m benchmarks.never [NAME...]`.

Untouched: the models of real_models/expected.toml whose verdict may be "stuck". Put in: a layer at zero, a layer and
the one that reads it, the last layer and the one that feeds it (real_models/injections.py), both factors of LoRA. One
line a model: the tensors that SB101 names, how many of them are proved, as a whole or in part, what the check cost.
"""

from __future__ import annotations

import argparse
import sys
import time
import tomllib
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from real_models import zoo
from real_models.faults import places_of
from real_models.injections import INJECTIONS
from real_models.oracle import fresh

import symbreak as sb

EXPECTED = Path(__file__).parents[1] / "real_models" / "expected.toml"
HOSTS = """
    torch.MLP-relu torch.Transformer tv.vit(tiny) timm.deit_tiny_patch16_224 timm.resnet10t timm.mixer(tiny)
    cv.seresnet20_cifar10 hf.bert hf.llama.CausalLM hf.vit hf.t5.Seq2SeqLM diff.DiT
"""
ZEROS = frozenset({"zero a layer", "zero a layer and its reader", "zero the last layer and its feeder"})


def stuck() -> list[str]:
    return [n for n, row in tomllib.loads(EXPECTED.read_text()).items() if "stuck" in row["verdict"]]


def told(name: str, case: zoo.Case) -> str:
    start = time.perf_counter()
    report = sb.check(case.model, case.batch, objective=case.objective)
    seconds = time.perf_counter() - start
    names = {n for f in report.findings if f.code == "SB101" for n in f.evidence.get("tensors", ())}
    tensors = [t for t in report.trace.tensors if t.name in names]
    whole = sum(t.proved == t.numel for t in tensors)
    partly = sum(0 < t.proved < t.numel for t in tensors)
    rows = [f.standing for f in report.findings if f.code == "SB101" and f.units]
    never = report.trace.never
    cost = "-" if never is None else f"{never.rounds} rounds{', reads ' + ' '.join(never.reads) if never.reads else ''}"
    return (
        f"{name:55} {report.verdict:9} never {len(tensors):4}  proved {whole:4}  partly {partly:3}  "
        f"units {rows.count('proved')}/{len(rows)}  {cost}  ({report.passes:g} passes, {seconds:.1f} s)"
    )


def injected(name: str) -> Iterator[tuple[str, zoo.Case]]:
    for injection in INJECTIONS:
        if injection.name not in ZEROS:
            continue
        for place in places_of(name, injection, 1, 0)[:1]:
            case = fresh(name)
            if injection.inject(case.model, place):
                yield f"{name} {injection.name} {place}", case


def adapters() -> Iterator[tuple[str, zoo.Case]]:
    """LoRA with A = B = 0."""
    case = fresh("peft.lora-bert")
    with torch.no_grad():
        for name, p in case.model.named_parameters():
            if "lora_" in name:
                p.zero_()
    yield "peft.lora-bert, A = B = 0", case


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.never", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--only", choices=["stuck", "faults"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if options.only != "faults":
        for name in options.names or stuck():
            try:
                print(told(name, zoo.build(name)), flush=True)
            except Exception as error:  # noqa: BLE001 - the next model is to be seen as well
                print(f"{name:55} {type(error).__name__}: {error}"[:160], flush=True)
    if options.only != "stuck":
        for name in options.names or ["peft.lora-bert", *HOSTS.split()]:
            try:
                for label, case in adapters() if name.startswith("peft.") else injected(name):
                    print(told(label, case), flush=True)
            except Exception as error:  # noqa: BLE001
                print(f"{name:55} {type(error).__name__}: {error}"[:160], flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
