"""scikit-learn's own judge of estimators, and what its tools do with ours."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from symbreak.nets import LinearRegression, LogisticRegression, Perceptron, shrink_perturb


@parametrize_with_checks(
    [
        LinearRegression(),
        LinearRegression(batch_size=8, momentum=0.5, tol=1e-4),
        LogisticRegression(),
        LogisticRegression(batch_size=1, max_epochs=20, init="normal(0.1)"),
        Perceptron(),
    ]
)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


def test_pipelines_grids_and_folds():
    X, y = load_breast_cancer(return_X_y=True)
    pipe = make_pipeline(StandardScaler(), LogisticRegression(max_epochs=100))
    assert cross_val_score(pipe, X, y, cv=3).mean() > 0.95
    grid = GridSearchCV(pipe, {"logisticregression__init": ["zeros", "normal(0.1)"]}, cv=3).fit(X, y)
    assert set(grid.cv_results_["param_logisticregression__init"]) == {"zeros", "normal(0.1)"}


def test_a_clone_keeps_a_fitted_start():
    X, y = load_diabetes(return_X_y=True)
    taught = LinearRegression().fit(X, y)
    student = clone(LinearRegression(init=taught, n_steps=1))
    assert student.init is taught
    assert (student.fit(X, y).w0_ == taught.coef_).all()
    assert cross_val_score(LinearRegression(init=taught), X, y, cv=3).mean() > 0.4
    assert not hasattr(clone(taught), "coef_")
    assert clone(LinearRegression(warm_start=shrink_perturb())).warm_start == shrink_perturb()


def test_a_clone_keeps_scikit_learns_own_settings():
    import sklearn

    with sklearn.config_context(enable_metadata_routing=True):
        routed = LogisticRegression().set_score_request(sample_weight=True)
        assert clone(routed).get_metadata_routing().score.requests == {"sample_weight": True}


@pytest.mark.parametrize("estimator", [LinearRegression(), LogisticRegression(), Perceptron()])
def test_pickle(estimator):
    X, y = np.random.default_rng(0).normal(size=(30, 3)), np.arange(30) % 2
    estimator.fit(X, y)
    assert (pickle.loads(pickle.dumps(estimator)).predict(X) == estimator.predict(X)).all()


def test_tables_with_named_columns():
    import pandas as pd

    X, y = load_diabetes(return_X_y=True, as_frame=True)
    line = LinearRegression().fit(X, y)
    assert line.feature_names_in_.tolist() == list(X.columns)
    with pytest.raises(ValueError, match="feature names should match"):
        line.predict(X.rename(columns={"bmi": "weight"}))
    assert isinstance(X, pd.DataFrame)
