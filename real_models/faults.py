"""Put faults into real models and count what the check catches: `python -m real_models.faults [NAME...]`.

The truth of every case is decided by training the injected model (`oracle`), not by symbreak. Caught: a new finding,
beside those of the untouched model, with a code that fits. False alarm: a new error on a harmless injection.
"""

import argparse
import json
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from real_models import zoo
from real_models.couplings import Coupling, find_couplings
from real_models.injections import INJECTIONS, Injection, Truth
from real_models.oracle import in_float64, quiet

MODELS = """
    torch.MLP-relu torch.MLP-tanh torch.DCGAN-G torch.Transformer tv.squeezenet1_1 tv.vit(tiny) tv.maxvit_t(tiny)
    timm.test_byobnet timm.test_convnext timm.test_efficientnet timm.test_mambaout timm.test_nfnet timm.mixer(tiny)
    cv.seresnet20_cifar10 hf.bert hf.gpt2.CausalLM hf.llama.CausalLM hf.t5.Seq2SeqLM hf.bart.Seq2SeqLM hf.vit
    hf.patchtst.PatchTSTForPrediction diff.UNet2DCondition diff.DiT pyg.GCN monai.UNETR
"""
OUTCOMES = ("caught", "missed", "silent", "false alarm", "put aside", "error")


@dataclass(frozen=True)
class Result:
    model: str
    injection: str
    where: str
    truth: Truth
    outcome: str
    said: str = ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m real_models.faults", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--places", type=int, default=1, help="couplings a model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--oracle-only", action="store_true", help="decide the truths, do not check")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)  # small models: more threads cost more than they give
    results = []
    for name in options.names or MODELS.split():
        started = time.perf_counter()
        for result in results_of(name, options.places, options.seed, check=not options.oracle_only):
            results.append(result)
            if result.outcome in ("missed", "false alarm", "error", "put aside"):
                print(f"  {result.outcome}: {result.model}, {result.injection}, {result.where} ({result.said})")
        print(f"{name}: {time.perf_counter() - started:.1f} s", flush=True)
    print(summary(results))
    if options.json:
        Path(options.json).write_text(json.dumps([asdict(result) for result in results], indent=1))
    return 1 if any(result.outcome in ("missed", "false alarm", "error") for result in results) else 0


def results_of(name: str, places: int = 1, seed: int = 0, check: bool = True) -> Iterator[Result]:
    case = fresh(name)
    in_float64(case)
    couplings = find_couplings(case, places, seed)
    if not couplings:
        yield Result(name, "every", "", "unclear", "put aside", "no pair of layers passed the swap")
        return
    try:
        untouched = findings_of(fresh(name)) if check else {}
    except Exception as error:
        yield Result(name, "every", "", "unclear", "error", f"{type(error).__name__}: {error}")
        return
    for coupling in couplings:
        for injection in INJECTIONS:
            result = one(name, coupling, injection, untouched, check)
            if result is not None:
                yield result


def fresh(name: str) -> zoo.Case:
    case = zoo.build(name)
    quiet(case.model)
    return case


def one(
    name: str, coupling: Coupling, injection: Injection, untouched: dict[tuple[str, str], Any], check: bool
) -> Result | None:
    where = f"{coupling.producer} -> {coupling.consumer}"
    trained = fresh(name)
    if not injection.inject(trained.model, coupling):
        return None
    in_float64(trained)
    truth = injection.truth(trained, coupling)
    if truth == "unclear":
        return Result(name, injection.name, where, truth, "put aside", "training does not settle it")
    if injection.expected not in (None, truth):
        return Result(name, injection.name, where, truth, "put aside", f"training says {truth}")
    if not check:
        return Result(name, injection.name, where, truth, "silent")
    case = fresh(name)
    injection.inject(case.model, coupling)
    try:
        new = {place: found for place, found in findings_of(case).items() if place not in untouched}
    except Exception as error:
        return Result(name, injection.name, where, truth, "error", f"{type(error).__name__}: {error}")
    return Result(name, injection.name, where, truth, *judge(truth, injection, new))


def findings_of(case: zoo.Case) -> dict[tuple[str, str], Any]:
    """Errors and warnings by code and place."""
    import symbreak

    report = symbreak.check(case.model, case.batch, objective=case.objective)
    return {(f.code, f.where): f for f in report.findings if f.severity in ("error", "warning")}


def judge(truth: Truth, injection: Injection, new: dict[tuple[str, str], Any]) -> tuple[str, str]:
    if truth == "fatal":
        fitting = [place for place in new if place[0] in injection.codes]
        return ("caught", "") if fitting else ("missed", f"new: {sorted(new) or 'nothing'}")
    errors = sorted(place for place, found in new.items() if found.severity == "error")
    return ("false alarm", f"{errors[:3]}") if errors else ("silent", "")


def summary(results: list[Result]) -> str:
    counts: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(OUTCOMES, 0))
    for result in results:
        counts[result.injection][result.outcome] += 1
        counts["TOTAL"][result.outcome] += 1
    lines = [f"{'injection':32} {'caught':>12} {'false alarms':>14} {'put aside':>10} {'errors':>7}"]
    for name in [*(name for name in counts if name != "TOTAL"), "TOTAL"]:
        count = counts[name]
        fatal, harmless = count["caught"] + count["missed"], count["silent"] + count["false alarm"]
        caught, alarms = f"{count['caught']} of {fatal}", f"{count['false alarm']} of {harmless}"
        lines.append(f"{name:32} {caught:>12} {alarms:>14} {count['put aside']:>10} {count['error']:>7}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
