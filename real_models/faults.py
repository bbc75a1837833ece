"""Put faults into real models and count what the check catches: `python -m real_models.faults [NAME...]`.

The truth of every case is decided by training the injected model (`oracle`; for a wrong fan by its scales), not by
symbreak. Caught: a new finding, beside those of the untouched model, with a code that fits. False alarm: on a harmless
injection a new error; a new warning with a code of the fault's kind, unless training the units it names bears it out
(`claims`); and a new warning of whatever kind that training refutes.
"""

import argparse
import json
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from real_models import zoo
from real_models.claims import JUDGES, is_true
from real_models.injections import INJECTIONS, Injection, Place, Truth, living
from real_models.oracle import Alike, fresh, in_float64

MODELS = """
    torch.MLP-relu torch.Transformer torch.DCGAN-G tv.squeezenet1_1 tv.vit(tiny) tv.maxvit_t(tiny)
    timm.test_byobnet timm.test_convnext timm.test_efficientnet timm.test_nfnet timm.test_mambaout timm.resnet10t
    timm.mixer(tiny) timm.mobilevit_xxs cv.seresnet20_cifar10 hf.bert hf.gpt2.CausalLM hf.llama.CausalLM
    hf.t5.Seq2SeqLM hf.bart.Seq2SeqLM hf.switch_transformers.Seq2SeqLM hf.vit hf.wav2vec2
    hf.patchtst.PatchTSTForPrediction diff.UNet2DCondition diff.ControlNet diff.DiT pyg.GCN pyg.GAT monai.UNETR
    ultra.yolov8n
"""
BESIDES = """
    torch.MLP-tanh sb3.MlpPolicy siren hf.mixtral.CausalLM hf.olmoe.CausalLM hf.granitemoe.CausalLM
    hf.qwen2_moe.CausalLM hf.qwen3_moe.CausalLM hf.gpt_oss.CausalLM hf.deepseek_v3.CausalLM hf.jamba.CausalLM
"""  # not among the sixty: odd activations, mixtures of experts
OUTCOMES = ("caught", "missed", "silent", "false alarm", "put aside", "error")


@dataclass(frozen=True)
class Result:
    model: str
    injection: str
    where: str
    truth: Truth
    outcome: str
    said: str = ""
    found: tuple[str, ...] = ()  # new findings: code, place, severity
    surprise: bool = False  # the truth is not what the table says
    elsewhere: bool = False  # caught, but by findings at other layers alone
    borne_out: tuple[str, ...] = ()  # of the findings of a harmless injection, those that training says are true


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m real_models.faults", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--only", metavar="TEXT", default="", help="injections whose name has this in it")
    parser.add_argument("--places", type=int, default=1, help="places of each kind a model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--oracle-only", action="store_true", help="decide the truths, do not check")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)  # small models: more threads cost more than they give
    chosen = [injection for injection in INJECTIONS if options.only in injection.name]
    results = []
    for name in options.names or (MODELS + BESIDES).split():
        started = time.perf_counter()
        for result in results_of(name, options.places, options.seed, not options.oracle_only, chosen):
            results.append(result)
            if worth_telling(result):
                print(f"  {result.outcome}: {result.model}, {result.injection}, {result.where} ({notes_of(result)})")
        print(f"{name}: {time.perf_counter() - started:.1f} s", flush=True)
    print(summary(results))
    if options.json:
        Path(options.json).write_text(json.dumps([asdict(result) for result in results], indent=1))
    return 1 if any(result.outcome in ("missed", "false alarm", "error") for result in results) else 0


def worth_telling(result: Result) -> bool:
    odd = result.outcome in ("missed", "false alarm", "error", "put aside") or result.surprise or result.elsewhere
    return odd or (result.outcome == "silent" and bool(result.found))


def notes_of(result: Result) -> str:
    new = f"new: {', '.join(result.found)}" if result.outcome == "silent" and result.found else ""
    notes = (
        result.said,
        "not as reasoned" if result.surprise else "",
        "elsewhere" if result.elsewhere else "",
        new,
        f"borne out: {', '.join(result.borne_out)}" if result.borne_out else "",
    )
    return "; ".join(filter(None, notes))


def results_of(
    name: str, places: int = 1, seed: int = 0, check: bool = True, injections: list[Injection] = INJECTIONS
) -> Iterator[Result]:
    """Every injection at every place of its kind; nothing where a model has no place for it."""
    found: dict[Any, list[Any]] = {}
    untouched: dict[Any, Findings] = {}
    living.cache_clear()
    for injection in injections:
        try:
            if injection.find not in found:
                found[injection.find] = places_of(name, injection, places, seed)
            if check and found[injection.find] and injection.recast not in untouched:
                untouched[injection.recast] = findings_of(injection.recast(fresh(name)))
        except Exception as error:
            yield Result(name, injection.name, "", "unclear", "error", f"{type(error).__name__}: {error}")
            continue
        for place in found[injection.find]:
            result = one(name, place, injection, untouched.get(injection.recast, {}), check)
            if result is not None:
                yield replace(
                    result, surprise=injection.table not in (None, result.truth) and result.truth != "unclear"
                )


def places_of(name: str, injection: Injection, wanted: int, seed: int) -> list[Place]:
    case = fresh(name)
    in_float64(case)
    return injection.find(case, wanted, seed)


def one(name: str, place: Place, injection: Injection, untouched: "Findings", check: bool) -> Result | None:
    trained = injection.recast(fresh(name))
    if not injection.inject(trained.model, place):
        return None
    in_float64(trained)
    try:
        truth = injection.truth(trained, place)
    except Exception as error:
        said = f"does not run: {type(error).__name__}: {str(error)[:80]}"
        return Result(name, injection.name, str(place), "unclear", "put aside", said)
    if truth == "unclear":
        return Result(name, injection.name, str(place), truth, "put aside", "the oracle does not settle it")
    if not check:
        return Result(name, injection.name, str(place), truth, "silent")
    case = injection.recast(fresh(name))
    injection.inject(case.model, place)
    try:
        new = {where: found for where, found in findings_of(case).items() if where not in untouched}
    except Exception as error:
        return Result(name, injection.name, str(place), truth, "error", f"{type(error).__name__}: {error}")
    claims = claims_judged(name, place, injection, new) if truth == "harmless" else {}
    outcome, said = judge(truth, injection, new, claims)
    found = tuple(sorted(f"{code} {where} {finding.severity}" for (code, where), finding in new.items()))
    elsewhere = outcome == "caught" and not any(
        code in injection.codes and at(where, code, place.layers) for code, where in new
    )
    borne_out = tuple(sorted(f"{code} {where}" for (code, where), true in claims.items() if true))
    return Result(
        name, injection.name, str(place), truth, outcome, said, found, elsewhere=elsewhere, borne_out=borne_out
    )


Findings = dict[tuple[str, str], Any]


def findings_of(case: zoo.Case) -> Findings:
    """Errors and warnings by code and place."""
    import symbreak

    asked = {"loss": case.loss} if isinstance(case, Alike) else {"objective": case.objective}
    report = symbreak.check(case.model, case.batch, **asked)
    return {(f.code, f.where): f for f in report.findings if f.severity in ("error", "warning")}


def claims_judged(name: str, place: Place, injection: Injection, new: Findings) -> dict[tuple[str, str], bool | None]:
    """What training says of each new warning, on a model of its own; and true of those that state what was put in."""
    judged: dict[tuple[str, str], bool | None] = {key: True for key in new if key[0] in injection.states}
    for key, finding in new.items():
        if finding.severity == "warning" and finding.code in JUDGES:
            case = injection.recast(fresh(name))
            injection.inject(case.model, place)
            in_float64(case)
            judged[key] = is_true(case, finding)
    return judged


def judge(
    truth: Truth, injection: Injection, new: Findings, claims: Mapping[tuple[str, str], bool | None]
) -> tuple[str, str]:
    """The outcome, and why. `claims`: what training says of single warnings."""
    fitting = {place for place in new if place[0] in injection.codes}
    if truth == "fatal":
        return ("caught", "") if fitting else ("missed", f"new: {sorted(new) or 'nothing'}")
    errors = {place for place, found in new.items() if found.severity == "error"}
    true, refuted = ({place for place, said in claims.items() if said is answer} for answer in (True, False))
    alarms = sorted(errors | (fitting - true) | refuted)
    return ("false alarm", f"{alarms[:3]}") if alarms else ("silent", "")


def at(where: str, code: str, layers: tuple[str, ...]) -> bool:
    """True where a finding names one of the layers, what is in it, or what it is in; SB102 names an activation."""
    return code == "SB102" or any(
        layer in ("", where) or where.startswith(f"{layer}.") or layer.startswith(f"{where}.") for layer in layers
    )


def summary(results: list[Result]) -> str:
    counts: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(OUTCOMES, 0))
    for result in results:
        counts[result.injection][result.outcome] += 1
        counts["TOTAL"][result.outcome] += 1
    lines = [f"{'injection':34} {'caught':>12} {'false alarms':>14} {'put aside':>10} {'errors':>7}"]
    for name in [*(injection.name for injection in INJECTIONS if injection.name in counts), "TOTAL"]:
        count = counts[name]
        fatal, harmless = count["caught"] + count["missed"], count["silent"] + count["false alarm"]
        caught, alarms = f"{count['caught']} of {fatal}", f"{count['false alarm']} of {harmless}"
        lines.append(f"{name:34} {caught:>12} {alarms:>14} {count['put aside']:>10} {count['error']:>7}")
    models, sixty = {result.model for result in results if result.outcome in OUTCOMES[:4]}, set(zoo.public_names())
    warned = [result for result in results if result.outcome == "silent" and result.found]
    true = [result for result in warned if len(result.borne_out) == len(result.found)]
    lines += [
        f"{len(models)} models, {len(models & sixty)} of them among the sixty",
        f"caught by findings at other layers alone: {sum(result.elsewhere for result in results)}",
        f"harmless changes with new warnings, all borne out by training, or stating what was put in: {len(true)}",
        f"harmless changes with a new warning of another kind that nothing here judges: {len(warned) - len(true)}",
        f"truths that are not as reasoned beforehand: {sum(result.surprise for result in results)}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
