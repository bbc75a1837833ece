"""What a question is answered with: claim, derivation, experiment, conditions, sources. Texts and pictures read it."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from symbreak._version import __version__
from symbreak.explanations import html, picture, text
from symbreak.explanations.derivation import Step
from symbreak.explanations.evidence import Caveat, Experiment

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCHEMA_VERSION = 1


@dataclass(frozen=True, eq=False)
class Explanation:
    """One question, answered on one data set.

    Example:
        >>> from symbreak.explanations import explain
        >>> explain("linear-zero").settled
        True

    Source: `sources`.
    """

    question: str
    asks: str
    claim: str
    derivation: tuple[Step, ...] = field(repr=False)
    data: str
    seed: int
    experiment: Experiment = field(repr=False)
    fails_when: tuple[Caveat, ...] = field(repr=False)
    sources: tuple[str, ...] = field(repr=False)

    @property
    def settled(self) -> bool:
        """Whether every criterion of the experiment is met, on this data and seed."""
        return self.experiment.settled

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the experiment into `ax`, or into new axes of pyplot, and return them.

        Raises:
            PictureError: matplotlib is not installed.
        """
        return picture.draw(self.experiment.picture, ax)

    def to_text(self, *, width: int = 100, ascii_only: bool = False) -> str:
        """Plain text, no line wider than `width` but for a table or a formula that is."""
        return text.render(self, width=width, ascii_only=ascii_only)

    def to_png(self, *, dpi: int = 144) -> bytes:
        """The picture as a PNG file's bytes.

        Raises:
            PictureError: matplotlib is not installed.
        """
        return picture.png(self.experiment.picture, dpi=dpi)

    def to_json(self) -> str:
        """Everything, numbers and picture included. What JSON does not know (NaN, infinity) becomes null."""
        return json.dumps(self._as_dict(), indent=2, allow_nan=False, ensure_ascii=False)

    def __str__(self) -> str:
        return self.to_text()

    def _repr_html_(self) -> str:
        return html.render(self)

    def _as_dict(self) -> dict[str, Any]:
        experiment = _plain(self.experiment) | {
            "settled": self.experiment.settled,
            "criteria": [_plain(one) | {"met": one.met} for one in self.experiment.criteria],
        }
        return {
            "schema_version": SCHEMA_VERSION,
            "symbreak": __version__,
            "question": self.question,
            "asks": self.asks,
            "claim": self.claim,
            "settled": self.settled,
            "data": self.data,
            "seed": self.seed,
            "derivation": [
                {
                    "sentence": step.sentence,
                    "latex": step.formula.latex,
                    "plain": step.formula.plain,
                    "standing": step.standing,
                    "identities": len(step.identities),
                    "source": step.source,
                }
                for step in self.derivation
            ],
            "experiment": experiment,
            "fails_when": [_plain(one) | {"shown": one.shown} for one in self.fails_when],
            "sources": list(self.sources),
        }


def _plain(thing: Any) -> Any:
    """Dicts, lists, strings, finite numbers and None."""
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        return {one.name: _plain(getattr(thing, one.name)) for one in dataclasses.fields(thing)}
    if isinstance(thing, list | tuple):
        return [_plain(one) for one in thing]
    if hasattr(thing, "item"):  # a NumPy number
        thing = thing.item()
    return None if isinstance(thing, float) and not math.isfinite(thing) else thing
