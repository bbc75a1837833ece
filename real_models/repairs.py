"""Repair known faults and count what heals: `python -m real_models.repairs [NAME...] [--markdown FILE]`.

Two beds. The fatal rows of the ground truth (tests/ground_truth), small replicas with known truth. And the faults of
`injections`, put into real models: those that training calls fatal are repaired, and training the repaired model says
whether they still are. Healed: the new check has no error or warning that the untouched model has not, and training no
longer calls it fatal. A benign zero is a tensor that is all zero in the untouched model; a bias that moves because
its unit is dead is not counted.
"""

import argparse
import gc
import json
import multiprocessing
import os
import shlex
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

import symbreak
from real_models import zoo
from real_models.faults import MODELS, places_of
from real_models.injections import INJECTIONS, Injection, Place, living
from real_models.oracle import Alike, fresh, in_float64
from real_models.table import put_between
from symbreak._check import examine
from symbreak.records import Finding

Known = frozenset[tuple[str, str, tuple[int, ...]]]  # code, place and units of each finding of the untouched model
SLOWEST = (
    "ultra.yolov8n", "tv.squeezenet1_1", "timm.mobilevit_xxs", "diff.UNet2DCondition", "tv.maxvit_t(tiny)",
    "monai.UNETR", "timm.resnet10t", "hf.switch_transformers.Seq2SeqLM", "cv.seresnet20_cifar10",
)  # fmt: skip
"""First, so that the jobs end together."""
KNOWN = ("<!-- begin: known starts, written by real_models.repairs -->", "<!-- end: known starts -->")
INJECTED = ("<!-- begin: injected faults, written by real_models.repairs -->", "<!-- end: injected faults -->")
KEPT = 1e-4  # a change of the outputs below this share of their size is the rounding of float32 weights


@dataclass(frozen=True)
class Repair:
    """One start, before and after. `judged` is what training says of the repaired model, where it was asked."""

    model: str
    fault: str
    where: str
    before: str
    after: str
    healed: bool
    changes: tuple[str, ...]
    tensors: int
    function_change: float | None
    zeros_touched: int
    seconds: float
    judged: str = ""
    left: str = ""
    found: bool = True  # whether the check told of it at all


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m real_models.repairs", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="real models; none: those of real_models.faults")
    parser.add_argument("--known-only", action="store_true", help="only the starts of tests/ground_truth")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="models at a time, each in a process of its own"
    )
    parser.add_argument("--json", metavar="FILE", help="write every repair; what FILE holds is not done again")
    parser.add_argument("--markdown", metavar="FILE", help="write the tables between the markers of this page")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)  # small models: more threads cost more than they give
    run = Run.start(Path(options.json) if options.json else None)
    known = list(known_starts())
    print(summary_of_known(known), flush=True)
    injected: list[Repair] = []
    stopped: list[str] = []
    if not options.known_only:
        names = options.names or MODELS.split()
        injected, stopped = injected_faults(names, options.seed, run, options.jobs)
        print(summary_of_injected(injected) + (f" Stopped by an error: {', '.join(stopped)}." if stopped else ""))
    print(run.told())
    if options.markdown:
        page = Path(options.markdown)
        put_between(page, *KNOWN, "\n\n".join([table_of_known(known), summary_of_known(known), run.told()]))
        if injected:
            both = [table_of_injected(injected), summary_of_injected(injected), run.told()]
            put_between(page, *INJECTED, "\n\n".join(both))
    return 0 if all(r.healed or r.left for r in (*known, *injected)) and not stopped else 1


# ---- one run ---------------------------------------------------------------------------------------------------------


class Run:
    """What a page has to tell of the run that wrote it: commit, command, time; and the file that keeps its results.

    Attributes:
        commit: of the sources, with "and changes" where they are not as committed.
        done: model -> its repairs, of this run and of those that the file holds.
    """

    def __init__(self, commit: str, file: Path | None, done: dict[str, list[dict[str, Any]]]) -> None:
        self.commit, self.done = commit, done
        self._file, self._taken, self._started = file, len(done), time.perf_counter()

    @classmethod
    def start(cls, file: Path | None) -> "Run":
        """Take up what the file holds; leave the program where it comes of other sources."""
        commit = commit_of_the_sources()
        if file is None or not file.is_file():
            return cls(commit, file, {})
        kept = json.loads(file.read_text())
        if kept.get("commit") != commit:
            sys.exit(f"{file} is of {kept.get('commit', 'an older format')}; the sources are at {commit}. Remove it.")
        return cls(commit, file, kept["repairs"])

    def add(self, model: str, repairs: list[Repair]) -> None:
        """Keep what came of a model."""
        self.done[model] = [asdict(r) for r in repairs]
        if self._file is not None:
            self._file.write_text(json.dumps({"commit": self.commit, "repairs": self.done}, indent=1))

    def told(self) -> str:
        """A sentence for the page."""
        minutes = (time.perf_counter() - self._started) / 60
        taken = f"; {self._taken} models were taken from an earlier run at that commit" if self._taken else ""
        return f"Written at {self.commit} in {minutes:.0f} minutes by `{command()}`{taken}."


def commit_of_the_sources() -> str:
    """The commit, and whether what decides a run is as committed there."""
    root = Path(__file__).parents[1]

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "src", "real_models", "tests", "pyproject.toml", "constraints.txt")
        return f"commit {git('rev-parse', '--short=10', 'HEAD')}{' and changes' if changed else ''}"
    except (OSError, subprocess.CalledProcessError):
        return "no commit (this is no git checkout)"


def command() -> str:
    """The command line that started this program; files elsewhere by their names alone."""
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    return shlex.join(["python", "-m", "real_models.repairs", *words])


# ---- starts whose truth is known -------------------------------------------------------------------------------------


def known_starts() -> Iterator[Repair]:
    """Every start of the ground truth that is not healthy."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from ground_truth import conditions, fatal

    for case in (*fatal.CASES, *conditions.CASES):
        if "healthy" not in case.verdict:
            model = case.model()
            report = symbreak.check(model, case.batch, case.loss)
            yield repaired(case.name, "", "", model, report, frozenset())


def repaired(
    name: str, fault: str, where: str, model: nn.Module, report: symbreak.Report, known: Known,
    zeros: frozenset[str] = frozenset(),
) -> Repair:  # fmt: skip
    """Fix what the report tells beyond `known`, the findings of the untouched model; `zeros` are its zero tensors."""
    brought = [f for f in report.findings if key_of(f) not in known]
    started = time.perf_counter()
    plan = symbreak.fix(model, replace(report, findings=tuple(brought)))
    seconds = time.perf_counter() - started
    places = {(code, place) for code, place, _ in known}
    left = [u for u in plan.left if (u.finding.code, u.finding.where) not in places]
    plan.apply()
    parameters, shifted = dict(model.named_parameters()), {c.tensor for c in plan.changes if "shift" in c.actions}
    return Repair(
        model=name, fault=fault, where=where, before=report.verdict, after=plan.after.verdict, healed=not left,
        changes=tuple(f"{'+'.join(c.actions)} {c.tensor}" for c in plan.changes), tensors=len(parameters),
        function_change=plan.function_change, zeros_touched=sum(bool(parameters[n].any()) for n in zeros - shifted),
        seconds=seconds, left="; ".join(f"{u.finding.code} {u.finding.where}: {u.reason}" for u in left[:3]),
        found=any((f.code, f.where) not in places for f in brought if f.severity != "info"),
    )  # fmt: skip


# ---- faults in real models -------------------------------------------------------------------------------------------


def injected_faults(names: list[str], seed: int, run: Run, jobs: int) -> tuple[list[Repair], list[str]]:
    """The fatal injections of each model, repaired; and the models that an error stopped."""
    left = [name for name in (*SLOWEST, *names) if name in names and name not in run.done]
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        for name, repairs in as_many_at_once(pool, list(dict.fromkeys(left)), seed):
            run.add(name, repairs)
    done = run.done
    return [Repair(**row) for name in names for row in done.get(name, ())], [n for n in names if n not in done]


def as_many_at_once(pool: Executor, names: list[str], seed: int) -> Iterator[tuple[str, list[Repair]]]:
    """Repair the models as the pool takes them, and say what came of each as soon as it is known."""
    running = {pool.submit(model_repaired, name, seed): name for name in names}
    for future in as_completed(running):
        name = running[future]
        try:
            repairs, seconds = future.result()
        except Exception as error:  # the other models go on, and main says which were stopped
            print(f"{name}: stopped by {type(error).__name__}: {error}", flush=True)
            continue
        for r in repairs:
            if not r.healed:
                print(f"  not healed: {r.model}, {r.fault}, {r.where} ({r.judged or r.left})")
        print(f"{name}: {len(repairs)} fatal faults, {seconds:.1f} s", flush=True)
        yield name, repairs


def model_repaired(name: str, seed: int) -> tuple[list[Repair], float]:
    """All fatal faults of one model, in a process of its own: what it imports and allocates goes with it."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    started = time.perf_counter()
    return list(faults_of(name, seed)), time.perf_counter() - started


def faults_of(name: str, seed: int = 0) -> Iterator[Repair]:
    """Every injection that training calls fatal, at one place of its kind."""
    found: dict[Any, list[Place]] = {}
    untouched: dict[Any, tuple[Known, frozenset[str]]] = {}
    living.cache_clear()
    fresh(name)  # imports its library, which is frozen with everything else: looking for garbage in it takes a while
    gc.collect()
    gc.freeze()
    for injection in INJECTIONS:
        gc.collect()  # the models of the last fault
        if injection.find not in found:
            found[injection.find] = places_of(name, injection, 1, seed)
        for place in found[injection.find]:
            if truth_of(name, injection, place) != "fatal":
                continue
            if injection.recast not in untouched:
                case = injection.recast(fresh(name))
                known = frozenset(map(key_of, looked_at(case).findings))
                untouched[injection.recast] = known, zeros_of(case.model)
            yield one(name, injection, place, *untouched[injection.recast])


def looked_at(case: zoo.Case) -> symbreak.Report:
    """The check of a case. Proofs that copies stay copies change no verdict, and are not asked for."""
    loss, objective = (case.loss, None) if isinstance(case, Alike) else (None, case.objective)
    return examine(case.model, case.batch, loss, objective, "sgd", 0, proofs=False)


def key_of(finding: Finding) -> tuple[str, str, tuple[int, ...]]:
    return finding.code, finding.where, finding.units


def zeros_of(model: nn.Module) -> frozenset[str]:
    return frozenset(name for name, p in model.named_parameters() if not p.any())


def truth_of(name: str, injection: Injection, place: Place) -> str:
    """What training says of the injected model; nothing where this place has no room for the injection."""
    case = injection.recast(fresh(name))
    if not injection.inject(case.model, place):
        return ""
    in_float64(case)
    try:
        return injection.truth(case, place)
    except Exception:
        return ""


def one(name: str, injection: Injection, place: Place, known: Known, zeros: frozenset[str]) -> Repair:
    case = injection.recast(fresh(name))
    injection.inject(case.model, place)
    zeros &= zeros_of(case.model)
    try:
        found = repaired(name, injection.name, str(place), case.model, looked_at(case), known, zeros)
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        return Repair(name, injection.name, str(place), "", "error", False, (), 0, None, 0, 0.0, left=said)
    in_float64(case)
    judged = injection.truth(case, place)
    return replace(found, judged=judged, healed=found.healed and judged != "fatal")


# ---- tables ----------------------------------------------------------------------------------------------------------


def table_of_known(repairs: list[Repair]) -> str:
    head = "| start | before | after | outputs change by | tensors changed | what is done |\n|---|---|---|---|---|---|"
    return "\n".join([head, *map(known_row, repairs)])


def known_row(r: Repair) -> str:
    counts = f"{len(r.changes)} of {r.tensors}"
    return f"| {r.model} | {r.before} | {r.after} | {size(r.function_change)} | {counts} | {told(r)} |"


def table_of_injected(repairs: list[Repair]) -> str:
    head = (
        "| fault | fatal in | found | healed | outputs kept | change where not (median) "
        "| tensors changed (median, most) |\n"
        "|---|---|---|---|---|---|---|"
    )
    lines = [head]
    for fault in dict.fromkeys(r.fault for r in repairs):
        some = [r for r in repairs if r.fault == fault]
        moved = [r.function_change for r in some if r.function_change is not None and r.function_change > KEPT]
        counts = [len(r.changes) for r in some]
        healed, change = sum(r.healed for r in some), size(median(moved)) if moved else ""
        counted = f"{median(counts):g}, {max(counts)}"
        found = sum(r.found for r in some)
        lines.append(f"| {fault} | {len(some)} | {found} | {healed} | {kept(some)} | {change} | {counted} |")
    return "\n".join(lines)


def told(r: Repair) -> str:
    shown = ", ".join(f"`{c}`" for c in r.changes[:3])
    more = f" and {len(r.changes) - 3} more" if len(r.changes) > 3 else ""
    return (shown + more + (f"; left: {r.left}" if r.left else "")) or "nothing"


def size(change: float | None) -> str:
    return "not measured" if change is None else "0" if change == 0 else f"{change:.1e}"


def summary_of_known(repairs: list[Repair]) -> str:
    return (
        f"{sum(r.healed for r in repairs)} of {len(repairs)} known faults healed, {kept(repairs)} without a change of "
        f"the outputs; {median(len(r.changes) for r in repairs):g} tensors changed at the median."
    )


def summary_of_injected(repairs: list[Repair]) -> str:
    if not repairs:
        return "No fatal faults."
    healed, models = sum(r.healed for r in repairs), len({r.model for r in repairs})
    return (
        f"{healed} of {len(repairs)} fatal faults in {models} real models healed, {kept(repairs)} without a change of "
        f"the outputs; {sum(r.zeros_touched for r in repairs)} benign zeros touched; a repair took "
        f"{median(r.seconds for r in repairs):.1f} s at the median."
    )


def kept(repairs: list[Repair]) -> int:
    return sum(r.function_change is not None and r.function_change <= KEPT for r in repairs)


if __name__ == "__main__":
    sys.exit(main())
