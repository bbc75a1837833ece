"""Why: the classic questions about starting weights, each derived, and measured on the user's own numbers.

The room is called explanations, so that `symbreak.explain` is always the function.
"""

from __future__ import annotations

from symbreak.explanations._explain import explain, find
from symbreak.explanations.evidence import Caveat, Criterion, Experiment, Table
from symbreak.explanations.explanation import Explanation
from symbreak.explanations.picture import Line, Picture, PictureError
from symbreak.explanations.problem import Problem, QuestionError
from symbreak.explanations.question import Question
from symbreak.explanations.questions import QUESTIONS

__all__ = [
    "QUESTIONS",
    "Caveat",
    "Criterion",
    "Experiment",
    "Explanation",
    "Line",
    "Picture",
    "PictureError",
    "Problem",
    "Question",
    "QuestionError",
    "Table",
    "explain",
    "find",
]
