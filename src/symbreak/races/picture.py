"""Pictures of a race: fans of loss curves, survival of seeds, and the map of learning rate against scale."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

import numpy as np

from symbreak.colors import COLORS
from symbreak.errors import nearest
from symbreak.races.errors import RaceError
from symbreak.races.statistics import best_cells, final_loss, steps_to
from symbreak.races.work import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from symbreak.races.result import RaceResult

KINDS = ("fan", "survival", "map")


def draw(result: RaceResult, ax: Axes | None, kind: str | None) -> Axes:
    """Draw one of the three kinds; without a kind, the map where there are scales, else the fan.

    Raises:
        RaceError: matplotlib is missing, an unknown kind, nothing to draw.
    """
    scales = {run.cell.scale for run in result.runs}
    kind = kind or ("map" if len(scales) > 1 else "fan")
    if kind not in KINDS:
        raise RaceError(f"no picture is called {kind!r}. {nearest(kind, KINDS)}")
    if not result.runs:
        raise RaceError("no run has been finished: there is nothing to draw.")
    if ax is None:
        try:
            import matplotlib.pyplot as plt
        except ImportError as err:
            raise RaceError("pictures need matplotlib: pip install symbreak[plots].") from err
        ax = plt.subplots()[1]
    {"fan": _fan, "survival": _survival, "map": _map}[kind](result, ax)
    return ax


def png(result: RaceResult, dpi: int) -> bytes:
    """The usual picture as PNG, without pyplot's global state.

    Raises:
        RaceError: as `draw`.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as err:
        raise RaceError("pictures need matplotlib: pip install symbreak[plots].") from err
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    draw(result, figure.add_subplot(), None)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi)
    return file.getvalue()


def _best(result: RaceResult) -> dict[str, list[Run]]:
    groups: dict[tuple[str, float, float], list[Run]] = {}
    for run in result.runs:
        groups.setdefault((run.cell.scheme, run.cell.eta, run.cell.scale), []).append(run)
    return {scheme: groups[key] for scheme, key in best_cells(groups).items()}


def _fan(result: RaceResult, ax: Axes) -> None:
    steps = np.array(result.setup.points)
    for number, (scheme, runs) in enumerate(_best(result).items()):
        losses = np.array([run.loss for run in runs])
        losses = np.where(np.isfinite(losses), losses, np.inf)
        middle, low, high = (np.quantile(losses, q, axis=0, method="inverted_cdf") for q in (0.5, 0.25, 0.75))
        shown = np.isfinite(middle)
        color = COLORS[number % len(COLORS)]
        ax.plot(steps[shown], middle[shown], color=color, label=f"{scheme}, eta {runs[0].cell.eta:g}")
        shown = np.isfinite(high)
        ax.fill_between(steps[shown], low[shown], high[shown], color=color, alpha=0.2, linewidth=0)
    ax.set(
        xlabel="step",
        ylabel=f"training loss ({result.setup.loss})",
        title=f"{result.setup.target}, {result.setup.data}",
    )
    if all(run.loss[0] > 0 for run in result.runs):
        ax.set_yscale("log")
    ax.legend()


def _survival(result: RaceResult, ax: Axes) -> None:
    setup = result.setup
    if setup.goal is None:
        raise RaceError("survival is of seeds that have not reached a target loss yet: race with goal=.")
    for number, (scheme, runs) in enumerate(_best(result).items()):
        reached = [steps_to(run, setup.goal, setup.points) for run in runs]
        left = [np.mean([at is None or at > step for at in reached]) for step in setup.points]
        ax.step(setup.points, left, where="post", color=COLORS[number % len(COLORS)], label=scheme)
    ax.set(xlabel="step", ylabel=f"share of seeds above loss {setup.goal:.3g}", ylim=(-0.02, 1.02))
    ax.legend()


def _map(result: RaceResult, ax: Axes) -> None:
    etas = sorted({run.cell.eta for run in result.runs})
    scales = sorted({run.cell.scale for run in result.runs})
    groups: dict[tuple[float, float], list[float]] = {}
    for run in result.runs:
        groups.setdefault((run.cell.eta, run.cell.scale), []).append(final_loss(run))
    table = np.full((len(etas), len(scales)), np.nan)
    for (eta, scale), losses in groups.items():
        median = float(np.median(losses))
        table[etas.index(eta), scales.index(scale)] = median if math.isfinite(median) else np.nan
    mesh = ax.pcolormesh(_edges(scales), _edges(etas), table, cmap="viridis_r", shading="flat")
    ax.figure.colorbar(mesh, ax=ax, label="median final loss; white: diverged")
    if result.theory is not None:
        ax.axvline(result.theory, color="#D55E00", linestyle="--", label="edge of chaos")
        ax.legend()
    ax.set(xscale="log", yscale="log", xlabel="scale of the weights", ylabel="learning rate")
    ax.set_title(f"{result.runs[0].cell.scheme}, {result.setup.target}, {result.setup.data}")


def _edges(centres: list[float]) -> list[float]:
    """Edges between centres on a logarithmic axis."""
    logs = np.log(centres)
    if len(logs) == 1:
        return [centres[0] / 1.5, centres[0] * 1.5]
    middle = (logs[1:] + logs[:-1]) / 2
    found = np.r_[2 * logs[0] - middle[0], middle, 2 * logs[-1] - middle[-1]]
    return [float(one) for one in np.exp(found)]
