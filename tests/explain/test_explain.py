"""The front door: lookup, data, the readers, the command line, and what it costs to ask nothing."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import symbreak
from symbreak.cli import main
from symbreak.errors import DataError, SymbreakError
from symbreak.explanations import (
    QUESTIONS,
    Caveat,
    Criterion,
    Experiment,
    Explanation,
    Line,
    Picture,
    PictureError,
    QuestionError,
    Table,
    explain,
    picture,
)
from symbreak.explanations.derivation import Named, define
from symbreak.explanations.problem import read
from symbreak.explanations.text import shown


@pytest.fixture
def small() -> Explanation:
    """An explanation made by hand, for the readers."""
    return Explanation(
        question="tiny",
        asks="Is <b> bold?",
        claim="Maybe.",
        derivation=(define("Say <i>.", Named("a<b", "a<b"), Named("c", "c")),),
        data="mine <script>",
        seed=3,
        experiment=Experiment(
            "Müller — did it.",
            (Table("T <u>", ("name", "n"), (("x", float("nan")), ("y", np.float64(2.0)))),),
            (Criterion("is small", 2.0, "<=", 1.0),),
            Picture("Title", "x", "y", (Line("l", (0.0, 1.0), (1.0, float("inf"))),)),
        ),
        fails_when=(Caveat("when it rains", 'said "so"', (Criterion("seen", 0.0, ">", 1.0),)), Caveat("always")),
        sources=("A & B",),
    )


# ---- the function ---------------------------------------------------------------------------------------------------


def test_it_is_always_the_function() -> None:
    ask = (
        "import symbreak.explanations, symbreak; from symbreak.explanations import questions; "
        "print(callable(symbreak.explain), type(symbreak.explain).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "function"]
    assert symbreak.explain is explain


def test_an_unknown_question_gives_the_nearest_three() -> None:
    with pytest.raises(QuestionError, match=r"no question 'linear-zeros'\. Nearest: linear-zero, .*, .*\."):
        explain("linear-zeros")


@pytest.mark.parametrize("seed", [-1, 1.5, True, "0"])
def test_a_seed_is_a_whole_number(seed: object) -> None:
    with pytest.raises(QuestionError, match="seed is"):
        explain("linear-zero", seed=seed)  # type: ignore[arg-type]


def test_same_seed_same_numbers() -> None:
    first, again, other = (explain("linear-zero", "iris", seed=seed) for seed in (1, 1, 2))
    assert first.to_json() == again.to_json() != other.to_json()


# ---- data -----------------------------------------------------------------------------------------------------------


def test_the_global_random_state_is_neither_read_nor_moved() -> None:
    """rrelu takes no generator of its own."""
    torch.manual_seed(1)
    first, state = explain("zero-hidden", seed=3).to_json(), torch.get_rng_state()
    torch.manual_seed(2)
    assert explain("zero-hidden", seed=3).to_json() == first
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_arrays_and_a_file_of_them_are_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((30, 2)).round(3)
    names = np.where(X @ [1.0, 2.0] > 0, "up", "down")
    file = tmp_path / "mine.csv"
    file.write_text("a,b,way\n" + "\n".join(f"{p},{q},{n}" for (p, q), n in zip(X, names, strict=True)))
    from_file, from_arrays = read(f"{file}:way"), read((X, names))
    assert np.allclose(from_file.X, from_arrays.X)
    assert from_file.y.tolist() == from_arrays.y.tolist()
    assert (from_arrays.task, from_arrays.n_classes) == ("classification", 2)


def test_classes_become_signs_and_signs_a_quantity_and_both_are_said() -> None:
    iris = read("iris")
    assert iris.signs().y.tolist() == [-1.0] * 50 + [1.0] * 100
    assert "class 0 against the rest" in iris.signs().about
    assert "classes -1 and +1 taken as numbers to predict" in iris.quantity().about
    assert read("diabetes").quantity().y.dtype == np.float64


def test_decimals_stay_what_they_are(tmp_path: Path) -> None:
    file = tmp_path / "tenths.csv"
    file.write_text("a,y\n0.1,0\n0.3,1\n123456.7,0\n")
    assert read(str(file)).X[:, 0].tolist() == [0.1, 0.3, 123456.7]
    assert read(([[1e9 + 2], [0.1]], [0, 1])).X[:, 0].tolist() == [1e9 + 2, 0.1]


def test_standardised_twice_is_once_and_constant_columns_are_zero() -> None:
    X = np.array([[1.0, 5.0, 1e9], [3.0, 5.0, 1e9 + 2]])
    once = read((X, [0, 1])).standardised()
    assert np.abs(once.X).tolist() == [[1.0, 0.0, 1.0]] * 2
    assert "1 constant columns set to 0" in once.note
    assert once.standardised().X.tolist() == once.X.tolist()


def test_of_many_rows_some_are_drawn_and_that_is_said() -> None:
    few = read("digits", most=100, seed=5)
    assert few.X.shape == (100, 64)
    assert few.about.endswith("100 of 1797 rows, drawn with seed 5")


def test_of_many_features_some_are_drawn_and_that_is_said() -> None:
    X = np.random.default_rng(0).standard_normal((10, 400))
    few = read((X, [0, 1] * 5), most=100, seed=5)
    assert few.X.shape == (10, 300)
    assert few.about.endswith("300 of 400 features, drawn with seed 5")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("irises", "Nearest: iris"),
        (3, "data is a int; expected a DATA string"),
        ((np.ones((3, 2)), np.ones(2)), "X has|features have shape"),
        ((np.array([[np.nan], [1.0]]), [0, 1]), "expected finite numbers"),
        (([[1.0], [2.0, 3.0]], [0, 1]), "rows of different lengths"),
        (([["a"], ["b"]], [0, 1]), "expected numbers"),
        ((np.ones((4, 2)), [1, 1, 1, 1]), "expected two classes or more"),
    ],
)
def test_bad_data_say_what_is_wrong(data: object, says: str) -> None:
    with pytest.raises(SymbreakError, match=says):
        explain("linear-zero", data)


def test_data_that_do_not_fit_the_question_say_what_to_pass() -> None:
    with pytest.raises(QuestionError, match=r"perceptron-eta is asked of classes.*data='breast_cancer'.*y > y.mean"):
        explain("perceptron-eta", "diabetes")
    with pytest.raises(QuestionError, match="needs at least 24 samples"):
        explain("pretrained", "xor")
    with pytest.raises(QuestionError, match="one target"):
        read((np.ones((3, 2)), np.random.default_rng(0).random((3, 2))), question="q")
    with pytest.raises(DataError, match="no file"):
        explain("linear-zero", "nothing.csv")


# ---- the readers ----------------------------------------------------------------------------------------------------


def test_text_says_what_was_not_settled(small: Explanation) -> None:
    text = small.to_text()
    assert "NOT SETTLED on mine <script> (seed 3)." in text
    assert "NO   is small: 2 <= 1" in text
    assert "The counterexample did not show it on this data." in text
    assert 'Often said: "said "so""' in text
    assert small.to_text(ascii_only=True).isascii()
    assert "Mueller - did it." in small.to_text(ascii_only=True)
    assert max(map(len, small.to_text(width=44).splitlines())) <= 44


def test_html_escapes_everything(small: Explanation) -> None:
    html = small._repr_html_()
    for raw in ("<script>", "Is <b> bold", "Say <i>.", "T <u>", "a<b"):
        assert raw not in html
    assert "A &amp; B" in html
    assert "Not settled" in html


def test_json_knows_no_nan(small: Explanation) -> None:
    found = json.loads(small.to_json())
    assert found["settled"] is False
    assert found["experiment"]["tables"][0]["rows"] == [["x", None], ["y", 2.0]]
    assert found["experiment"]["picture"]["lines"][0]["y"] == [1.0, None]
    assert [one["shown"] for one in found["fails_when"]] == [False, None]


def test_no_criterion_settles_nothing(small: Explanation) -> None:
    assert replace(small, experiment=Experiment("Nothing.", (), ())).settled is False
    assert not Criterion("is a number", float("nan"), "<", 1.0).met


def test_numbers_are_short() -> None:
    assert [shown(n) for n in (0.0, 1e6, 1e9, 1.23456, -0.5, True, None, "a", float("inf"))] == [
        "0", "1000000", "1e+09", "1.235", "-0.5", "yes", "-", "a", "inf",
    ]  # fmt: skip


# ---- pictures -------------------------------------------------------------------------------------------------------


def test_bars_stand_side_by_side_under_their_names() -> None:
    from matplotlib.figure import Figure

    bars = Picture(
        "T", "kind", "n", (Line("a", (0.0, 1.0), (1.0, 2.0), "bars"), Line("b", (0.0, 1.0), (3.0, 4.0), "bars")),
        x_ticks=("left", "right"),
    )  # fmt: skip
    ax = picture.draw(bars, Figure().subplots())
    edges = sorted((patch.get_x(), patch.get_x() + patch.get_width()) for patch in ax.patches)
    assert all(right <= left + 1e-9 for (_, right), (left, _) in itertools.pairwise(edges))
    assert [label.get_text() for label in ax.get_xticklabels()] == ["left", "right"]


def test_new_axes_come_from_pyplot(small: Explanation) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    ax = small.plot()
    assert ax.get_xlabel() == "x"
    plt.close(ax.figure)


def test_without_matplotlib_it_says_what_to_install(small: Explanation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(PictureError, match=r"pip install 'symbreak\[plots\]'"):
        small.plot()
    with pytest.raises(PictureError, match="needs matplotlib"):
        small.to_png()
    assert "pip install" in small._repr_html_()


# ---- the command line -----------------------------------------------------------------------------------------------


def test_without_a_question_it_lists_them() -> None:
    done = CliRunner().invoke(main, ["explain"])
    assert done.exit_code == 0
    for name, question in QUESTIONS.items():
        assert any(line.startswith(name) and question.brief in line for line in done.output.splitlines())


def test_the_list_and_the_help_wait_for_nothing_heavy() -> None:
    for command in (["explain"], ["--help"], ["explain", "--help"]):
        ask = (
            "import sys; from symbreak.cli import main\n"
            f"try: main({command!r})\n"
            "except SystemExit: pass\n"
            "print([m for m in ('torch', 'sympy', 'matplotlib', 'numba', 'scipy', 'sklearn', 'pandas') "
            "if m in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "[]", command


def test_it_answers_as_text_json_and_picture(tmp_path: Path) -> None:
    drawn = tmp_path / "p.png"
    done = CliRunner().invoke(main, ["explain", "linear-zero", "--data", "iris", "--plot", str(drawn), "--seed", "4"])
    assert done.exit_code == 0, done.output
    assert "Settled on iris" in done.output
    assert "(seed" in done.output
    assert drawn.read_bytes()[:4] == b"\x89PNG"
    done = CliRunner().invoke(main, ["explain", "linear-zero", "--data", "iris", "--format", "json"])
    assert json.loads(done.stdout)["question"] == "linear-zero"


def test_what_is_not_settled_exits_1() -> None:
    """XOR: no feature correlates with the target, so the gradient at zero is zero after all."""
    done = CliRunner().invoke(main, ["explain", "linear-zero", "--data", "xor"])
    assert done.exit_code == 1
    assert "NOT SETTLED" in done.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["explain", "zero-linear"], "no question 'zero-linear'. Nearest: "),
        (["explain", "linear-zero", "--data", "nope"], "there is no data 'nope'"),
        (["explain", "linear-zero", "--plot", "x.pdf"], "name it x.png"),
        (["explain", "linear-zero", "--data", "xor", "--plot", "/no/such/folder/x.png"], "cannot be written"),
    ],
)
def test_bad_input_exits_2_with_one_line(arguments: list[str], says: str) -> None:
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert says in done.output
    assert "Traceback" not in done.output
