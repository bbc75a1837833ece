"""A question: its words, and the three functions that derive, measure and look for counterexamples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from symbreak.explanations.derivation import Step
from symbreak.explanations.evidence import Caveat, Experiment
from symbreak.explanations.problem import Needs, Problem


@dataclass(frozen=True, eq=False)
class Question:
    """One file in `questions/` makes one of these, called QUESTION.

    Args:
        name: what the user types.
        asks: the question as a person asks it.
        brief: the answer in one line, for the list.
        claim: the answer in two sentences, with its conditions.
        derivation: -> steps; the algebra runs when it is called.
        experiment: (problem, seed) -> what was measured. Criteria are stated before they are compared.
        fails_when: (problem, seed) -> conditions under which the claim fails, with counterexamples that were run.
        sources: where it comes from, one text each.
        default: DATA string it takes where the user gives none.
        needs: what the target must be.
        most: rows that are used at most.
    """

    name: str
    asks: str
    brief: str
    claim: str
    derivation: Callable[[], tuple[Step, ...]]
    experiment: Callable[[Problem, int], Experiment]
    fails_when: Callable[[Problem, int], tuple[Caveat, ...]]
    sources: tuple[str, ...]
    default: str
    needs: Needs = "any"
    most: int = 2000
