"""The questions, one file each, in the order they are listed. None imports sympy or torch before it is asked."""

from __future__ import annotations

from symbreak.explanations.question import Question
from symbreak.explanations.questions import (
    gradient_size,
    linear_region,
    linear_zero,
    logistic_zero,
    perceptron_eta,
    pretrained,
)

QUESTIONS: dict[str, Question] = {
    module.QUESTION.name: module.QUESTION
    for module in (linear_zero, logistic_zero, perceptron_eta, gradient_size, linear_region, pretrained)
}
