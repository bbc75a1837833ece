"""Where a fit starts: every kind of `init=`, and what does not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression as SkLinear
from sklearn.linear_model import LogisticRegression as SkLogistic
from sklearn.neural_network import MLPClassifier as SkMLP

from symbreak.errors import SchemeError
from symbreak.nets import NetError, build, saved
from symbreak.nets.start import Slot, fresh, layer, start, tensors_of
from symbreak.schemes import Fans, kaiming_normal, parse

NEURON = (Slot("coef_", (1, 3), Fans(3, 1)), Slot("intercept_", (1,), Fans(3, 1), is_bias=True))
DEEP = (*layer("fc1", n_in=3, n_out=4), *layer("fc2", n_in=4, n_out=2))


@pytest.mark.parametrize("scheme", ["kaiming_normal", "torch", "normal(0.3)", "constant(0.1)", "zeros"])
def test_schemes_draw_what_the_textbook_module_has(scheme):
    began = start(DEEP, scheme, seed=5, dtype="float32")
    for name, weight in build("mlp:4:tanh", 3, 2, parse(scheme), seed=5).named_parameters():
        np.testing.assert_array_equal(began[name], weight.detach().numpy())


def test_same_seed_same_weights_and_the_global_states_stay():
    before, numpy_before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    one, two, other = (start(DEEP, "kaiming", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert (numpy_before == np.random.get_state()[1]).all()
    assert all((one[name] == two[name]).all() for name in one)
    assert not (one["fc1.weight"] == other["fc1.weight"]).any()


def test_values_schemes_numbers_and_arrays():
    assert start(NEURON, kaiming_normal(), seed=1)["coef_"].shape == (1, 3)
    assert start(NEURON, 0.5, 2)["coef_"].tolist() == [[0.5, 0.5, 0.5]]
    assert start(NEURON, 0.5, 2)["intercept_"].tolist() == [2.0]
    assert start(NEURON, [1, 2, 3])["coef_"].tolist() == [[1.0, 2.0, 3.0]]
    assert start(NEURON, np.ones((1, 3)), "constant(3)")["intercept_"].tolist() == [3.0]
    assert start(NEURON, np.ones(3), [4.0])["intercept_"].tolist() == [4.0]


def test_an_array_is_copied():
    given = np.ones((1, 3))
    start(NEURON, given)["coef_"][:] = 7
    assert given.tolist() == [[1.0, 1.0, 1.0]]


def test_layers_may_start_each_in_its_own_way():
    began = start(DEEP, ["zeros", np.full((2, 4), 0.5)], ["constant(1)", 2.0])
    assert not began["fc1.weight"].any()
    assert (began["fc2.weight"] == 0.5).all()
    assert (began["fc1.bias"] == 1).all()
    assert (began["fc2.bias"] == 2).all()


def test_biases_and_weights_have_separate_schemes():
    began = start(DEEP, "zeros", "normal(1)", seed=3)
    assert not began["fc1.weight"].any()
    assert began["fc1.bias"].all()


def test_fitted_estimators_of_scikit_learn(tmp_path):
    X, y = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 2
    line, curve = SkLinear().fit(X, y), SkLogistic().fit(X, y)
    assert start(NEURON, line)["coef_"][0].tolist() == line.coef_.tolist()
    assert start(NEURON, line)["intercept_"][0] == line.intercept_
    assert start(NEURON, curve)["coef_"].tolist() == curve.coef_.tolist()
    assert start(NEURON, line, init_bias=0.0)["intercept_"].tolist() == [0.0]
    assert start(NEURON[:1], SkLinear(fit_intercept=False).fit(X, y)).keys() == {"coef_"}
    assert start(NEURON, SkLinear(fit_intercept=False).fit(X, y))["intercept_"].tolist() == [0.0]
    deep = SkMLP((4,), max_iter=1, random_state=0)
    with pytest.warns(UserWarning, match="Maximum iterations"):
        deep.fit(X, np.arange(20) % 3)
    assert tensors_of(deep)["fc2.weight"].shape == (3, 4)


def test_saved_weights(tmp_path):
    weights = {"coef_": np.array([[1.0, 2.0, 3.0]]), "intercept_": np.array([4.0])}
    path = saved.write(tmp_path / "w.safetensors", saved.Saved("LinearRegression", tensors=weights))
    for given in (path, str(path)):
        began = start(NEURON, given)
        assert began["coef_"].tolist() == [[1.0, 2.0, 3.0]]
        assert began["intercept_"].tolist() == [4.0]


def test_files_that_torch_wrote_are_read_too(tmp_path):
    from safetensors.torch import save_file

    model = build("mlp:4:tanh", 3, 2, parse("kaiming"), seed=2)
    save_file(model.state_dict(), tmp_path / "torch.safetensors")
    began = start(DEEP, tmp_path / "torch.safetensors")
    assert (began["fc2.weight"] == model.fc2.weight.detach().numpy()).all()


def test_a_fresh_start_is_random_whatever_init_is():
    for init in ("zeros", np.zeros((1, 3)), 0.5, "constant(1)", Path("nowhere.safetensors")):
        drawn = fresh(NEURON, init, seed=1)
        assert 0 < np.abs(drawn["coef_"]).max() <= 1 / np.sqrt(3)
        assert drawn["intercept_"].all()
    assert (fresh(NEURON, "normal(9)", seed=1)["coef_"] == start(NEURON, "normal(9)", seed=1)["coef_"]).all()


@pytest.mark.parametrize(
    ("init", "init_bias", "message"),
    [
        (np.ones(4), None, r"init has shape \(4,\); coef_ needs \(1, 3\) or \(3,\)"),
        (np.ones((3, 1)), None, r"init has shape \(3, 1\); coef_ needs"),
        ([1.0, np.nan, 0.0], None, "init holds 1 NaN or infinite value; the first at"),
        (None, None, "init is None; expected a scheme such as 'kaiming_normal', a number, an array, a fitted"),
        (True, None, "init is True; expected a scheme"),
        (max, None, "expected a scheme"),
        (["a", "b", "c"], None, "init holds something that is no number"),
        ("zeros", [1.0, 2.0], r"init_bias has shape \(2,\); intercept_ needs \(1,\) or \(\)"),
        ("zeros", {}, "init_bias is {}; expected a scheme"),
        (SkLinear(), None, "init is a LinearRegression without weights: not fitted yet"),
        ("nowhere.safetensors", None, "there is no file 'nowhere.safetensors'. None is known"),
    ],
)  # fmt: skip
def test_what_does_not_fit(init, init_bias, message):
    from symbreak.errors import SymbreakError

    with pytest.raises(SymbreakError, match=message):
        start(NEURON, init, init_bias)


def test_an_unknown_scheme_names_the_nearest_and_the_other_kinds():
    with pytest.raises(SchemeError, match=r"Nearest: kaiming_normal.*Or give a number, an array, a fitted estimator"):
        start(NEURON, "kaiming_norml")


def test_lists_must_be_as_long_as_the_net_is_deep():
    with pytest.raises(NetError, match=r"init is a list of 3; one for each of fc1.weight, fc2.weight is needed"):
        start(DEEP, ["zeros", "zeros", "zeros"])
    with pytest.raises(NetError, match=r"init is one array of shape \(4, 3\), for 2 layers"):
        start(DEEP, np.ones((4, 3)))


def test_weights_of_another_model(tmp_path):
    path = saved.write(tmp_path / "w.safetensors", saved.Saved("MLPClassifier", tensors=start(DEEP, "kaiming")))
    with pytest.raises(
        NetError, match=r"holds MLPClassifier, with .*fc1.weight \(4, 3\), .*; this model has coef_ \(1, 3\)"
    ):
        start(NEURON, path)
    narrow = SkLinear().fit([[0.0], [1.0]], [0.0, 1.0])
    with pytest.raises(NetError, match=r"LinearRegression with coef_ of shape \(1,\); coef_ needs \(1, 3\) or \(3,\)"):
        start(NEURON, narrow)
    lifted = SkLinear().fit(np.eye(3), [1.0, 1.0, 4.0])
    with pytest.raises(NetError, match=r"this model has coef_ \(1, 3\)\. Take weights of the same kind"):
        start(NEURON[:1], lifted)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(NetError, match="is no readable safetensors file"):
        start(NEURON, tmp_path / "text.safetensors")
    with pytest.raises(NetError, match=r"Nearest: .*text.safetensors"):
        start(NEURON, tmp_path / "txt.safetensors")
    later = saved.Saved("LinearRegression", tensors={"coef_": np.ones((1, 3))})
    with pytest.raises(NetError, match=r"ends in .safetensors"):
        saved.write(tmp_path / "w.npz", later)
    with pytest.raises(NetError, match="there is no folder"):
        saved.write(tmp_path / "no" / "w.safetensors", later)
    with pytest.raises(NetError, match=r"spare=.* cannot be saved"):
        saved.write(tmp_path / "w.safetensors", saved.Saved("A", {"spare": object()}))


def test_a_file_of_a_later_format_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(saved, "FORMAT", "2")
    path = saved.write(tmp_path / "w.safetensors", saved.Saved("A", tensors={"coef_": np.ones((1, 3))}))
    monkeypatch.undo()
    with pytest.raises(NetError, match=r"was saved in format 2, by symbreak .*Update it"):
        saved.read(path)


def test_parameters_and_facts_survive_the_file(tmp_path):
    parameters = {
        "init": kaiming_normal(gain=1.0), "hidden_layer_sizes": (3, 4), "warm_start": False, "alpha": 0.5, "tol": None,
        "layers": ["zeros", kaiming_normal()], "where": Path("a/b"), "n": np.int64(3),
    }  # fmt: skip
    facts = {
        "classes_": np.array(["no", "yes"]),
        "n_iter_": 3,
        "loss_path_": np.array([2.0, np.inf]),
        "mixed": np.array(["a", 1], object),
    }
    back = saved.read(saved.write(tmp_path / "w.safetensors", saved.Saved("A", parameters, facts)))
    assert back.parameters == parameters | {"where": "a/b"}
    assert back.facts["classes_"].tolist() == ["no", "yes"]
    assert back.facts["classes_"].dtype == "<U3"
    assert back.facts["loss_path_"].tolist() == [2.0, np.inf]
    assert back.facts["n_iter_"] == 3
    assert back.facts["mixed"].tolist() == ["a", 1]
    assert back.made_by == "A"
