"""What a race came to: the runs, the statistics, and the ways to show them."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from symbreak.races import picture, statistics
from symbreak.races.errors import RaceError
from symbreak.races.grid import Cell
from symbreak.races.statistics import Comparison, Summary
from symbreak.races.work import Run, Setup

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

FORMAT = 1


@dataclass(frozen=True, eq=False)
class RaceResult:
    """All runs of a race that are done.

    Example:
        >>> from symbreak import race
        >>> done = race("mlp:4:tanh", "xor", schemes=["zeros", "he"], seeds=4, steps=20, batch_size=None, etas=[0.1])
        >>> len(done.runs), list(done.to_frame()["scheme"].unique())
        (8, ['zeros', 'kaiming_normal'])

    Source: `symbreak.race`.
    """

    setup: Setup
    runs: tuple[Run, ...] = field(repr=False)
    n_asked: int
    n_trained: int  # in this call: fewer where starts are equal, or a store had them
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    theory: float | None = None  # scale at which the edge of chaos is, for a map

    @property
    def finished(self) -> bool:
        """Whether every run that was asked for is here."""
        return len(self.runs) == self.n_asked

    @cached_property
    def summaries(self) -> tuple[Summary, ...]:
        """One row a scheme, learning rate and scale."""
        return statistics.summaries(self.runs, self.setup)

    @cached_property
    def comparisons(self) -> tuple[Comparison, ...]:
        """Every pair of schemes, each at its best learning rate."""
        return statistics.comparisons(self.runs)

    @property
    def verdict(self) -> str:
        """What the seeds settle, in sentences; the best scheme first."""
        if not self.runs:
            return "No run has been finished."
        said = [one.sentence for one in self.comparisons]
        ranked = sorted((one for one in self.summaries if one.best), key=lambda one: one.final_loss)
        lead = f"Lowest median loss: {ranked[0].scheme} ({ranked[0].final_loss:.4g} at eta {ranked[0].eta:g})"
        if len(ranked) > 1 and not said:
            said = ["One seed a scheme settles nothing: pass more"]
        return ". ".join([lead, *said]) + "."

    def to_frame(self) -> pd.DataFrame:
        """A row a run."""
        import pandas as pd

        columns = ("scheme", "seed", "eta", "scale", "final_loss", "final_held_loss", "metric", "held_metric",
                   "steps_to_target", "diverged", "diverged_at", "grad_norm", "asleep", "last_wakeup", "distinct_units",
                   "hidden_units", "engine", "note")  # fmt: skip
        return pd.DataFrame([self._row(run) for run in self.runs], columns=list(columns))

    def _row(self, run: Run) -> dict[str, Any]:
        steps = statistics.steps_to(run, self.setup.goal, self.setup.points)
        return {
            **dataclasses.asdict(run.cell),
            "final_loss": statistics.final_loss(run),
            "final_held_loss": run.held_loss[-1],
            "metric": run.metric[-1],
            "held_metric": run.held_metric[-1],
            "steps_to_target": math.nan if steps is None else steps,
            "diverged": run.diverged_at is not None,
            "diverged_at": math.nan if run.diverged_at is None else run.diverged_at,
            "grad_norm": run.grad_norm,
            **_start(run),
            "engine": run.engine,
            "note": run.note,
        }

    def plot(self, ax: Axes | None = None, *, kind: Literal["fan", "survival", "map"] | None = None) -> Axes:
        """Draw into `ax`, or into new axes of pyplot, and return them.

        Args:
            ax: matplotlib axes.
            kind: "fan" the loss of each scheme over the steps, median and middle half; "survival" the share of seeds
                that have not reached the target yet; "map" eta x scale, and where theory puts the edge of chaos.
        Raises:
            RaceError: matplotlib is not installed, or no run is done.
        """
        return picture.draw(self, ax, kind)

    def to_png(self, *, dpi: int = 144) -> bytes:
        """The picture as a PNG file's bytes.

        Raises:
            RaceError: matplotlib is not installed, or no run is done.
        """
        return picture.png(self, dpi)

    def to_json(self) -> str:
        """Setup, runs, summaries, comparisons. What JSON does not know (NaN, infinity) becomes null."""
        found = {
            "format": FORMAT,
            "setup": dataclasses.asdict(self.setup),
            "runs": [dataclasses.asdict(run) for run in self.runs],
            "summaries": [dataclasses.asdict(one) for one in self.summaries],
            "comparisons": [dataclasses.asdict(one) for one in self.comparisons],
            "verdict": self.verdict,
            "n_asked": self.n_asked,
            "n_trained": self.n_trained,
            "seconds": self.seconds,
            "notes": list(self.notes),
            "theory": self.theory,
        }
        return json.dumps(_finite(found), indent=1, allow_nan=False, ensure_ascii=False)

    def to_text(self, *, width: int = 100) -> str:
        """A table of the schemes and the verdict."""
        return _text(self, width)

    def __str__(self) -> str:
        return self.to_text()


def from_json(text: str) -> RaceResult:
    """What `to_json` wrote: null in a path reads as NaN.

    Raises:
        RaceError: it is something else.
    """
    try:
        found = json.loads(text)
        if found["format"] != FORMAT:
            raise RaceError(f"a race result of format {found['format']}; this symbreak reads {FORMAT}.")
        setup = Setup(**{**found["setup"], "points": tuple(found["setup"]["points"])})
        runs = tuple(run_from(one) for one in found["runs"])
        return RaceResult(
            setup, runs, found["n_asked"], found["n_trained"], found["seconds"], tuple(found["notes"]), found["theory"]
        )
    except (KeyError, TypeError, ValueError) as err:
        raise RaceError(f"this is no race result: {err}. `symbreak race --format json` writes one.") from err


def read(path: Path) -> RaceResult:
    """A result from a store, or from a file of JSON.

    Raises:
        RaceError: there is no such file, or it is neither.
        StoreError: a store that cannot be read.
    """
    from symbreak.races.store import Store, is_store

    if is_store(path):
        with Store(path, None) as store:
            runs = tuple(store.runs().values())
            return RaceResult(store.setup, runs, len(runs), 0)
    try:
        return from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as err:
        raise RaceError(f"{path} cannot be read as a race result: {err}.") from err


PATHS = ("loss", "metric", "held_loss", "held_metric")


def run_from(found: dict[str, Any]) -> Run:
    """A run from plain values."""
    paths = {name: tuple(math.nan if one is None else one for one in found[name]) for name in PATHS}
    norm = math.nan if found["grad_norm"] is None else found["grad_norm"]
    width = {name: (int(distinct), int(units)) for name, (distinct, units) in found["width"].items()}
    return Run(**{**found, **paths, "grad_norm": norm, "width": width, "cell": Cell(**found["cell"])})


def _start(run: Run) -> dict[str, float]:
    """The start in four numbers: tensors that never wake, the step at which the last of the others does, and units."""
    steps = [step for step in run.wakeup.values() if step is not None]
    looked = bool(run.wakeup)
    return {
        "asleep": len(run.wakeup) - len(steps) if looked else math.nan,
        "last_wakeup": max(steps, default=math.nan),
        "distinct_units": sum(distinct for distinct, _ in run.width.values()) if looked else math.nan,
        "hidden_units": sum(units for _, units in run.width.values()) if looked else math.nan,
    }


def _finite(thing: Any) -> Any:
    if isinstance(thing, dict):
        return {name: _finite(one) for name, one in thing.items()}
    if isinstance(thing, list | tuple):
        return [_finite(one) for one in thing]
    return None if isinstance(thing, float) and not math.isfinite(thing) else thing


def _text(result: RaceResult, width: int) -> str:
    import textwrap

    setup = result.setup
    goal = f", target loss {setup.goal:.4g}" if setup.goal is not None else ""
    lines = [
        f"{setup.target} on {setup.data}: {len(result.runs)} of {result.n_asked} runs, {setup.optimizer}, "
        f"{setup.steps} steps of {setup.batch_size} samples, loss {setup.loss}{goal}",
        "",
    ]
    rows = sorted((one for one in result.summaries if one.best), key=lambda one: one.final_loss)
    widest = max([len(one.scheme) for one in rows] + [6])
    lines.append(
        f"{'scheme':<{widest}} {'eta':>8} {'seeds':>5} {'final loss':>11}  {'95 % interval':<21} {'held out':>8} "
        f"{'steps':>7} {'converged':>9} {'diverged':>8}"
    )
    for one in rows:
        low, high = one.final_loss_interval
        steps = "-" if one.steps_to_target is None else f"{one.steps_to_target:g}"
        converged = "-" if setup.goal is None else f"{one.converged:.0%}"
        lines.append(
            f"{one.scheme:<{widest}} {one.eta:>8g} {one.n_seeds:>5} {one.final_loss:>11.4g}  "
            f"{f'{low:.4g} to {high:.4g}':<21} {one.held_metric:>8.3f} {steps:>7} {converged:>9} "
            f"{one.diverged:>8.0%}"
        )
    others = len(result.summaries) - len(rows)
    if others:
        lines.append(f"Each scheme at its best learning rate; {others} other settings are in the table of all runs.")
    lines += [
        "",
        *(line for part in result.verdict.split(". ") for line in textwrap.wrap(part.rstrip(".") + ".", width)),
    ]
    for note in (*statistics.starts(result.runs), *result.notes):
        lines += textwrap.wrap(note, width)
    return "\n".join(lines)
