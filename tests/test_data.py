"""DATA: built-in sets against scikit-learn's own, tables from files, and what factories return."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import datasets
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from symbreak.data import BUILT_IN, Data, Given, as_table, from_arrays, from_object, load, task_of
from symbreak.errors import DataError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def csv(folder, text, name="t.csv"):
    (folder / name).write_text(text)
    return name


@pytest.mark.parametrize("name", ["digits", "iris", "wine", "breast_cancer", "diabetes"])
def test_built_in_sets_are_scikit_learns_standardised(name):
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    data = load(name)
    np.testing.assert_allclose(data.X, StandardScaler().fit_transform(X), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(data.y, y)
    assert data.n_classes == (0 if name == "diabetes" else len(set(y)))
    assert data.task == ("regression" if name == "diabetes" else "classification")
    assert "standardised" in data.note


def test_a_table_keeps_all_digits_and_torch_gets_float32(folder):
    data = load(csv(folder, "a,y\n0.1,0.3\n123456789.7,0.7\n-2.5,1.5\n"))
    assert data.X[:, 0].tolist() == [0.1, 123456789.7, -2.5]
    assert data.y.tolist() == [0.3, 0.7, 1.5]
    x, y = data.draw(0)
    assert x[:, 0].tolist() == np.float32([0.1, 123456789.7, -2.5]).tolist()
    assert y.tolist() == np.float32([0.3, 0.7, 1.5]).tolist()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("float64", "float64"), ("float32", "float32"), ("float16", "float32"), ("uint8", "float32"),
        ("bool", "float32"), ("uint32", "float64"), ("int32", "int64"), ("int64", "int64"),
    ],
)  # fmt: skip
def test_what_is_kept_holds_what_was_given(given, kept):
    X = np.array([[0, 1], [1, 1], [1, 0]]).astype(given)
    data = from_arrays(X, [0, 1, 1])
    assert data.X.dtype == kept
    assert (data.X == X).all()
    assert data.draw(0)[0].dtype == (torch.int64 if kept == "int64" else torch.float32)
    assert as_table(data).X.dtype == np.float64


def test_a_number_beyond_float32_is_refused_where_torch_gets_it(folder):
    large_x = load(csv(folder, "a,y\n1,0\n-1e39,1\n", "x.csv"))
    large_y = load(csv(folder, "a,y\n1,0.5\n2,1e39\n", "y.csv"))
    assert large_x.X[1, 0] == -1e39
    for data, who in ((large_x, "x.csv: a feature"), (large_y, "y.csv: the target")):
        with pytest.raises(DataError, match=f"{who} is 1e\\+39 in size, and float32 ends at 3.4e38. Scale it first."):
            data.draw(0)


def test_constant_columns_are_zero_and_said():
    data = load("digits")
    assert "3 constant columns set to 0" in data.note
    assert int((data.X == 0).all(axis=0).sum()) == 3


@pytest.mark.parametrize("name", BUILT_IN)
def test_drawing_is_deterministic_and_varies_with_the_step(name):
    data = load(name)
    x, y = data.draw(3)
    again, _ = data.draw(3)
    assert torch.equal(x, again)
    assert len(x) == len(y) == min(256, len(data.X))
    assert x.dtype == torch.float32
    assert y.dtype == (torch.float32 if name == "diabetes" else torch.int64)
    assert len(data.X) <= 256 or not torch.equal(x, data.draw(4)[0])


def test_drawing_leaves_the_global_random_states():
    before, legacy = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    load("moons").draw(0)
    assert torch.equal(before, torch.random.get_rng_state())
    assert (legacy == np.random.get_state()[1]).all()


def test_xor_is_xor():
    data = load("xor")
    assert [((x > 0).tolist(), int(y)) for x, y in zip(data.X, data.y, strict=True)] == [
        ([False, False], 0),
        ([False, True], 1),
        ([True, False], 1),
        ([True, True], 0),
    ]


def test_csv_takes_the_last_column_and_leaves_features_as_they_are(folder):
    data = load(csv(folder, "a,b,y\n1,20,yes\n3,40,no\n5,60,yes\n7,80,no\n"))
    assert data.X.tolist() == [[1, 20], [3, 40], [5, 60], [7, 80]]
    assert data.y.tolist() == [1, 0, 1, 0]
    assert (data.task, data.n_classes) == ("classification", 2)
    assert data.note == "'y' taken as 2 classes (no, yes)"


def test_csv_with_a_named_target(folder):
    data = load(csv(folder, "a,b,y\n1,20,0.5\n3,40,1.5\n5,60,2.5\n") + ":b")
    assert data.X.shape == (3, 2)
    assert data.task == "regression"
    assert data.y.tolist() == [20, 40, 60]


def test_whole_numbers_are_classes_only_where_they_are_few(folder):
    few = "a,y\n" + "".join(f"{k},{k % 3 + 5}\n" for k in range(30))
    many = "a,y\n" + "".join(f"{k},{k}\n" for k in range(30))
    data = load(csv(folder, few))
    assert (data.task, data.n_classes, set(data.y)) == ("classification", 3, {0, 1, 2})
    assert load(csv(folder, many)).task == "regression"
    assert load(csv(folder, "a,y\n1,True\n2,False\n3,True\n")).n_classes == 2


@pytest.mark.parametrize(
    ("text", "argument", "message"),
    [
        ("", "t.csv", "t.csv is empty"),
        ("a,y\n", "t.csv", "a header and no rows"),
        ("a,b\n1,2\n3,4\n", "t.csv:price", "no column 'price'. Nearest: "),
        ("y\n1\n2\n", "t.csv", "the one column 'y'"),
        ("a,town,y\n1,Bonn,0\n2,Rome,1\n", "t.csv", "column 'town' holds text .such as 'Bonn'.; features must be"),
        ("a,b,y\n1,2,0\n3,,1\n", "t.csv", r"row 2, column 'b' has no value \(1 such in all\)"),
        ("a,y\n1,0\n3,\n", "t.csv", "row 2, column 'y' has no value"),
        ("a,y\n1,0\ninf,1\n", "t.csv", "row 2, feature 1 is inf"),
        ("a,y\n1,0.5\n2,inf\n", "t.csv", "row 2, target 'y' is inf"),
        ("a,y\n1,2\n2,2\n", "t.csv", "is 2 in every row"),
        ("a,y\n1,2,3,4\n1,2\n1,2,3,4,5,6\n", "t.csv", "cannot be read as CSV"),
    ],
)
def test_a_bad_csv_says_where(folder, text, argument, message):
    csv(folder, text)
    with pytest.raises(DataError, match=message):
        load(argument)


def test_a_csv_that_is_not_text(folder):
    (folder / "t.csv").write_bytes(b"\xff\xfe\x00\x81,\x90\n1,2\n")
    with pytest.raises(DataError, match="cannot be read as CSV"):
        load("t.csv")


def test_a_missing_file_names_the_nearest(folder):
    csv(folder, "a,y\n1,2\n", "train.csv")
    with pytest.raises(DataError, match=r"there is no file 'trian.csv'. Nearest: train.csv"):
        load("trian.csv")
    with pytest.raises(DataError, match=r"there is no file 'nowhere/x.npz'"):
        load("nowhere/x.npz")


@pytest.mark.parametrize("names", [("X", "y"), ("x", "y"), ("inputs", "labels")])
def test_npz(folder, names):
    X, y = np.arange(12.0).reshape(6, 2), np.array([0, 1, 0, 1, 0, 1])
    np.savez("t.npz", **dict(zip(names, (X, y), strict=True)))
    data = load("t.npz")
    assert data.X.tolist() == X.tolist()
    assert data.n_classes == 2


def test_npz_keeps_tokens_whole_until_a_built_in_model_asks(folder):
    np.savez("t.npz", X=np.array([[1, 2], [3, 4]]), y=np.array([0, 1]))
    data = load("t.npz")
    assert data.draw(0)[0].dtype == torch.int64
    assert as_table(data).draw(0)[0].dtype == torch.float32


def test_npz_that_cannot_be_used(folder):
    np.savez("one.npz", X=np.zeros((3, 2)))
    with pytest.raises(DataError, match="holds X; expected two arrays"):
        load("one.npz")
    np.savez("odd.npz", X=np.zeros((3, 2)), y=np.zeros(4))
    with pytest.raises(DataError, match=r"features have shape \(3, 2\), 'y' has \(4,\)"):
        load("odd.npz")
    np.savez("none.npz", X=np.zeros((0, 2)), y=np.zeros(0))
    with pytest.raises(DataError, match="has no samples"):
        load("none.npz")
    np.savez("words.npz", X=np.array([["a"], ["b"]]), y=np.zeros(2))
    with pytest.raises(DataError, match="expected numbers"):
        load("words.npz")
    np.savez("nan.npz", X=np.array([[0.0, 1.0], [2.0, np.nan]]), y=np.array([0, 1]))
    with pytest.raises(DataError, match="row 2, feature 2 is nan"):
        load("nan.npz")
    (folder / "text.npz").write_text("no archive")
    with pytest.raises(DataError, match="cannot be read as NPZ without pickle"):
        load("text.npz")


def test_npz_images_are_no_table(folder):
    np.savez("t.npz", X=np.zeros((4, 3, 8, 8)), y=np.array([0, 1, 0, 1]))
    assert load("t.npz").draw(0)[0].shape == (4, 3, 8, 8)
    with pytest.raises(DataError, match=r"X has shape \(4, 3, 8, 8\); a built-in model needs X\[samples, features\]"):
        as_table(load("t.npz"))


FACTORIES = """
import torch
from torch.utils.data import DataLoader, TensorDataset
X, y = torch.arange(200.0).reshape(100, 2), torch.arange(100) % 2
def batch(): return X, y
def dataset(): return TensorDataset(X, y)
def loader(): return DataLoader(TensorDataset(X, y), batch_size=8, shuffle=True)
def nothing(): pass
def empty(): return DataLoader(TensorDataset(X[:0], y[:0]))
class Broken(torch.utils.data.Dataset):
    def __len__(self): return 3
    def __getitem__(self, index): raise OSError("disk on fire")
def words(): return {"input_ids": y[:4]}
"""


@pytest.fixture
def made(folder):
    (folder / "mydata.py").write_text(FACTORIES)
    return lambda name: load(f"mydata.py:{name}")


def test_a_factory_may_return_a_batch(made):
    source = made("batch")
    assert torch.equal(source.draw(0)[0], source.draw(5)[0])
    assert source.task == "classification"
    assert as_table(source).n_classes == 2
    assert made("words").draw(0).keys() == {"input_ids"}
    assert made("words").task is None


def test_a_factory_may_return_a_dataset(made):
    source = made("dataset")
    x, y = source.draw(0)
    assert x.shape == (64, 2)
    assert torch.equal(y, (x[:, 0] / 2).long() % 2)
    assert torch.equal(x, source.draw(0)[0])
    assert not torch.equal(x, source.draw(1)[0])
    assert source.task == "classification"


def test_a_factory_may_return_a_loader(made):
    source = made("loader")
    late = source.draw(5)[0]
    assert late.shape == (8, 2)
    assert not torch.equal(late, source.draw(0)[0])
    assert torch.equal(late, source.draw(5)[0])  # although the loader shuffles
    assert torch.equal(source.draw(13)[0], source.draw(0)[0])  # 13 batches, then again from the first


def test_an_iterable_dataset_is_batched():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(torch.arange(1000.0).reshape(500, 2))

    source = from_object(Stream(), "stream")
    assert source.draw(0).shape == (64, 2)
    assert source.task is None


def test_factories_that_fail(made, folder):
    with pytest.raises(DataError, match="returned None; expected a batch, a Dataset or a DataLoader"):
        made("nothing")
    with pytest.raises(DataError, match="the DataLoader holds no batch"):
        made("empty").draw(0)
    with pytest.raises(DataError, match=r"read as a Dataset, raised OSError: disk on fire \(mydata.py:12\)"):
        made("Broken").draw(0)
    with pytest.raises(DataError, match=r"mydata.py has no 'bach'. Nearest: batch"):
        made("bach")
    with pytest.raises(
        DataError, match=r"needs the name of a factory. It defines batch, dataset, .*: write mydata.py:"
    ):
        load("mydata.py")
    with pytest.raises(DataError, match="the Dataset is empty"):
        from_object(TensorDataset(torch.zeros(0, 2)), "none")


def test_a_built_in_model_needs_a_table(made):
    with pytest.raises(DataError, match="a built-in model needs a table"):
        as_table(made("loader"))
    with pytest.raises(DataError, match="a built-in model needs a table"):
        as_table(Given("pictures", (torch.zeros(2, 3, 4, 4), torch.tensor([0, 1]))))


def test_unknown_data_names_the_nearest():
    with pytest.raises(DataError, match=r"there is no data 'digit'. Nearest: digits, .*Or file.csv\[:target\]"):
        load("digit")


@pytest.mark.parametrize(
    ("batch", "task"),
    [
        ((torch.zeros(2, 3), torch.tensor([0, 1])), "classification"),
        ([torch.zeros(2, 3), torch.tensor([0.0, 1.0])], "regression"),
        ((torch.zeros(2, 3), torch.zeros(2, 1)), "regression"),
        ((torch.zeros(2, 3), torch.zeros(2, 3)), None),
        ((torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3, dtype=torch.int64)), None),
        (torch.zeros(2, 3), None),
        ({"x": torch.zeros(2)}, None),
        ((torch.zeros(2), torch.tensor(1.0)), None),
    ],
)
def test_the_task_is_read_off_the_target(batch, task):
    assert task_of(batch) == task


def test_data_prints_short():
    assert len(repr(load("digits"))) < 200
    assert isinstance(load("digits"), Data)


def test_a_loader_starts_no_earlier_than_needed():
    class Counting(TensorDataset):
        read = 0

        def __getitem__(self, index):
            Counting.read += 1
            return super().__getitem__(index)

    source = from_object(DataLoader(Counting(torch.zeros(40, 2)), batch_size=4), "counted")
    assert Counting.read == 0
    source.draw(1)
    assert Counting.read == 8
