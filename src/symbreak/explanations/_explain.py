"""The one function every driver calls: look the question up, read the data, derive, measure, seek counterexamples."""

from __future__ import annotations

from typing import Any

from symbreak.errors import nearest
from symbreak.explanations.explanation import Explanation
from symbreak.explanations.problem import QuestionError, read
from symbreak.explanations.question import Question
from symbreak.explanations.questions import QUESTIONS


def explain(question: str, data: Any = None, *, seed: int = 0) -> Explanation:
    """Answer one of the classic questions about starting weights, on the user's own numbers.

    Args:
        question: its name; `symbreak explain` lists them.
        data: a DATA string as the command line takes it ("digits", "file.csv:target"), a pair of arrays (X, y), or None
            for the question's own data set.
        seed: of everything that is drawn.
    Returns:
        claim, derivation, experiment, picture, conditions and sources; `settled` is computed from the numbers.
    Raises:
        QuestionError: an unknown question, data that does not fit it, a seed that is no whole number from 0 on.
        DataError: data that cannot be read.
    Example:
        >>> explain("linear-zero").experiment.criteria[0].met
        True

    Source: each question's `sources`.
    """
    import torch

    asked = find(question)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise QuestionError(f"seed is {seed!r}; a whole number from 0 on is needed.")
    problem = read(data, default=asked.default, needs=asked.needs, question=asked.name, most=asked.most, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # rrelu and dropout draw from the global state and take no generator
        experiment, caveats = asked.experiment(problem, seed), asked.fails_when(problem, seed)
    return Explanation(
        question=asked.name,
        asks=asked.asks,
        claim=asked.claim,
        derivation=asked.derivation(),
        data=problem.about,
        seed=seed,
        experiment=experiment,
        fails_when=caveats,
        sources=asked.sources,
    )


def find(name: str) -> Question:
    """A question by its name.

    Raises:
        QuestionError: with the nearest three names.
    Example:
        >>> find("linear-zero").default
        'diabetes'

    Source: `questions/`.
    """
    if name not in QUESTIONS:
        raise QuestionError(
            f"there is no question {name!r}. {nearest(str(name), QUESTIONS)} `symbreak explain` lists all."
        )
    return QUESTIONS[name]
