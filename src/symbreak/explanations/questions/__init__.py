"""The questions, one file each, in the order they are listed. None imports sympy or torch before it is asked."""

from __future__ import annotations

from symbreak.explanations.question import Question
from symbreak.explanations.questions import (
    constant_hidden,
    gradient_size,
    linear_region,
    linear_zero,
    logistic_zero,
    perceptron_eta,
    pretrained,
    random_bias,
    rows_or_columns,
    zero_bias,
    zero_hidden,
    zeros_that_work,
)

QUESTIONS: dict[str, Question] = {
    module.QUESTION.name: module.QUESTION
    for module in (
        linear_zero,
        logistic_zero,
        perceptron_eta,
        zero_hidden,
        constant_hidden,
        zero_bias,
        random_bias,
        rows_or_columns,
        linear_region,
        gradient_size,
        pretrained,
        zeros_that_work,
    )
}
