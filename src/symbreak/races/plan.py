"""What is asked for becomes one `Work`: the setup as plain values, and the objects behind it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from symbreak.races import chains, exactly, optimizers, samples, scores, subjects
from symbreak.races.errors import RaceError
from symbreak.races.grid import whole
from symbreak.races.samples import Samples, Split, Whole
from symbreak.races.scores import Score
from symbreak.races.subjects import Subject
from symbreak.races.work import Setup, Work

BATCH = 32


def prepared(
    target: Any,
    data: Any,
    *,
    steps: int = 500,
    batch_size: int | None = BATCH,
    optimizer: str = "sgd",
    schedule: str | Callable[[float], float] = "constant",
    loss: Any = None,
    metric: Any = None,
    held_out: float = 0.25,
    goal: float | None = None,
    points: int = 20,
    data_seed: int = 0,
    look: bool | None = None,
    threads: int | None = None,
    compile: bool | None = None,
) -> Work:
    """The setup of a race with the objects behind it. Arguments as `race`.

    Example:
        >>> prepared("mlp:8:tanh", "iris", steps=100).setup.batch_size
        32
    """
    n_steps, n_points = whole("steps", steps), whole("points", points)
    seed = whole("data_seed", data_seed, least=0)
    subject, table, score = _asked(target, data, loss, metric)
    part: Split | Whole
    chance = None
    if isinstance(table, Whole):
        part, held_out = table, 0.0
        if metric is not None:
            raise RaceError(f"metric={metric!r} needs targets, and {table.name} has none that a race knows. Pass data.")
    else:
        part = samples.split(table, held_out=held_out, batch_size=batch_size, seed=seed)
        chance = scores.chance(table, score)
    rows, wanted = part.seen()
    subject = dataclasses.replace(
        subject, batch=rows if wanted is None else (rows, wanted), loss=None if score.by_objective else score.function
    )
    name, factor = optimizers.schedule_of(schedule)
    perceptron = subject.spec is not None and subject.spec.kind == "perceptron"
    unit = len(part.train[0]) if perceptron and not isinstance(part, Whole) else 1  # a perceptron counts whole epochs
    rounds = -(-n_steps // unit)
    marks = np.unique(np.round(np.linspace(0, rounds, min(n_points, rounds) + 1)).astype(int)) * unit
    if goal is None and chance is not None:
        goal = chance / 2
    setup = Setup(
        target=subject.name,
        model=subject.fingerprint,
        data=table.name,
        data_sha256=table.digest,
        loss=score.loss,
        metric=score.metric,
        optimizer=optimizers.optimizer_of(optimizer),
        schedule=name,
        steps=rounds * unit,
        batch_size=1 if perceptron else part.batch_size,
        points=tuple(int(mark) for mark in marks),
        held_out=float(held_out),
        data_seed=seed,
        goal=None if goal is None else float(goal),
        chance=chance,
        looked=chains.fits(subject.spec, score.loss) if look is None else bool(look),
    )
    work = Work(setup, subject, part, score, factor, threads, compile)
    exactly.complain(work)
    return work


def _asked(target: Any, data: Any, loss: Any, metric: Any) -> tuple[Subject, Samples | Whole, Score]:
    """Who is raced, on what, and what is minimised."""
    spec = subjects.spec_of(target)
    if spec is not None:
        table = samples.read(data)
        score = scores.score_for(table, loss, metric, kind=spec.kind)
        return subjects.textbook(target, spec, table, score), table, score
    subject, brought = subjects.own(target)
    has_objective = brought.objective is not None
    if has_objective and loss is not None:
        raise RaceError(
            f"{subject.name} brings its own objective, so loss={loss!r} has no place. Leave one of them out."
        )
    found = (
        samples.read(data)
        if data is not None
        else samples.carried(brought.batch, subject.name, objective=has_objective)
    )
    if brought.objective is not None:
        return subject, found, scores.score_by(brought.objective, metric)
    assert isinstance(found, Samples)
    return subject, found, scores.score_for(found, loss, metric, kind=None)
