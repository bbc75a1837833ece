"""The estimators on tables people have: a CSV with text headers, and what importing them costs."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_iris
from sklearn.linear_model import LinearRegression as Least

import symbreak as sb
from symbreak.data import load


def test_a_csv_with_headers_and_a_quantity(tmp_path):
    table = load_diabetes(as_frame=True).frame.rename(columns={"bmi": "Body mass (index)", "target": "progression"})
    table.to_csv(tmp_path / "patients.csv", index=False)
    data = load(f"{tmp_path / 'patients.csv'}:progression")
    line = sb.nets.LinearRegression().fit(data.X, data.y)
    least = Least().fit(data.X.astype(float), data.y)
    np.testing.assert_allclose(line.predict(data.X), least.predict(data.X), rtol=1e-6)


def test_a_csv_with_headers_and_names_for_classes(tmp_path):
    table = load_iris(as_frame=True).frame
    table["species"] = np.array(["setosa", "versicolor", "virginica"])[table.pop("target")]
    table.to_csv(tmp_path / "flowers.csv", index=False)
    data = load(f"{tmp_path / 'flowers.csv'}:species")
    for net, least in ((sb.nets.LogisticRegression(), 0.95), (sb.nets.Perceptron(shuffle=True, random_state=0), 0.6)):
        assert net.fit(data.X, data.y).score(data.X, data.y) > least  # versicolor lies between the others
    import pandas as pd

    raw = pd.read_csv(tmp_path / "flowers.csv")
    named = sb.nets.LogisticRegression().fit(raw.drop(columns="species"), raw["species"])
    assert named.classes_.tolist() == ["setosa", "versicolor", "virginica"]
    assert named.predict(raw.drop(columns="species")[:1]).tolist() == ["setosa"]


@pytest.mark.parametrize("name", ["diabetes", "iris", "wine", "breast_cancer", "digits"])
def test_built_in_sets(name):
    data = load(name)
    net = sb.nets.LinearRegression() if data.task == "regression" else sb.nets.LogisticRegression(max_epochs=200)
    assert net.fit(data.X, data.y).score(data.X, data.y) > (0.5 if data.task == "regression" else 0.95)


def test_one_neuron_needs_no_torch():
    code = (
        "import sys; from symbreak.nets import LinearRegression, LogisticRegression, Perceptron\n"
        "for net in (LinearRegression(), LogisticRegression(), Perceptron()): net.fit([[0.], [1.]], [0, 1])\n"
        "print('torch' in sys.modules)\n"
        "LinearRegression(init='normal(1)').fit([[0.], [1.]], [0, 1])\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_the_room_names_what_it_has():
    assert "LinearRegression" in dir(sb.nets)
    assert sb.nets.LOSSES
    with pytest.raises(AttributeError, match=r"module 'symbreak.nets' has no attribute 'LinearRegresion'"):
        _ = sb.nets.LinearRegresion
