"""Small replicas of starts whose truth is known, and an oracle that judges them without symbreak."""

from ground_truth import benign, conditions, fatal, wake
from ground_truth.case import Case

CASES: tuple[Case, ...] = (*benign.CASES, *fatal.CASES, *conditions.CASES, *wake.CASES)
