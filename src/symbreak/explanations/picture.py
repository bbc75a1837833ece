"""A picture as data: lines, points or bars with their axes. matplotlib draws it; the web page and JSON read it."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from symbreak.colors import COLORS
from symbreak.errors import SymbreakError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLES: tuple[str, ...] = ("-", "--", "-.", ":")


class PictureError(SymbreakError):
    """A picture cannot be drawn or written: matplotlib is missing, or the file's ending or folder is unknown."""


@dataclass(frozen=True)
class Line:
    """One series x -> y. Points without a finite number are left out.

    Example:
        >>> Line("zero", (1.0, 2.0), (3.0, 4.0)).draw
        'line'
    """

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    draw: Literal["line", "points", "bars"] = "line"


@dataclass(frozen=True)
class Picture:
    """Everything that is drawn, as plain values.

    Args:
        title: above the axes.
        x_label, y_label: with units.
        lines: what is drawn, in order.
        x_log, y_log: logarithmic axes.
        x_ticks: names of x = 0, 1, 2, ... where x counts kinds and not amounts.
    Example:
        >>> Picture("Loss", "step", "loss", (Line("zero", (1.0,), (2.0,)),)).y_log
        False
    """

    title: str
    x_label: str = ""
    y_label: str = ""
    lines: tuple[Line, ...] = ()
    x_log: bool = False
    y_log: bool = False
    x_ticks: tuple[str, ...] = ()


def draw(picture: Picture, ax: Axes | None = None) -> Axes:
    """Draw it into given axes, or into new ones of pyplot.

    Raises:
        PictureError: matplotlib is not installed.
    Example:
        >>> draw(Picture("Loss", "step", "loss", (Line("zero", (1.0,), (2.0,)),))).get_xlabel()
        'step'

    Source: matplotlib.
    """
    if ax is None:
        _import()
        import matplotlib.pyplot as plt

        ax = plt.subplots(figsize=(7.0, 4.2), layout="constrained")[1]
    bars = [line for line in picture.lines if line.draw == "bars"]
    for number, line in enumerate(picture.lines):
        color = COLORS[number % len(COLORS)]
        if line.draw == "bars":
            width = 0.8 / len(bars)
            shift = (bars.index(line) - (len(bars) - 1) / 2) * width
            ax.bar([x + shift for x in line.x], line.y, width=width, label=line.label, color=color)
        elif line.draw == "points":
            ax.plot(line.x, line.y, "o", ms=5, label=line.label, color=color)
        else:
            ax.plot(line.x, line.y, STYLES[number % len(STYLES)], lw=2, label=line.label, color=color)
    if (
        not picture.x_ticks
        and not picture.x_log
        and all(float(x).is_integer() for line in picture.lines for x in line.x)
    ):
        ax.locator_params(axis="x", integer=True)
    if picture.x_log and any(x > 0 for line in picture.lines for x in line.x):  # matplotlib fails on none
        ax.set_xscale("log")
    if picture.y_log and any(y > 0 for line in picture.lines for y in line.y):
        ax.set_yscale("log")
    if picture.x_ticks:
        ax.set_xticks(range(len(picture.x_ticks)), picture.x_ticks)
    ax.set(title=picture.title, xlabel=picture.x_label, ylabel=picture.y_label)
    ax.spines[["top", "right"]].set_visible(False)
    if any(line.label for line in picture.lines):
        ax.legend(frameon=False)
    return ax


def png(picture: Picture, *, dpi: int = 144) -> bytes:
    """The picture as the bytes of a PNG file, drawn without pyplot: no window, no global state.

    Raises:
        PictureError: matplotlib is not installed.
    Example:
        >>> png(Picture("Loss"))[1:4]
        b'PNG'

    Source: matplotlib.
    """
    _import()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    draw(picture, figure.subplots())
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi)
    return drawn.getvalue()


def _import() -> None:
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as err:
        raise PictureError(
            "a picture needs matplotlib, which is not installed: pip install 'symbreak[plots]'. "
            "The numbers are in to_json() without it."
        ) from err
