"""What becomes of a table's rows and columns, against pandas and scikit-learn."""

import re
import shlex

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.impute import SimpleImputer
from sklearn.model_selection import GroupKFold

import gdexp
from gdexp.data import Weighted
from gdexp.data.split import split
from gdexp.data.table import table

EPOCH = ["data=table", "trainer.epochs=1", "optimizer.lr=0.01"]


@pytest.fixture
def ship(here):
    """A file like the passenger list of the Titanic: text, whole numbers, and gaps in three columns."""
    draw = np.random.default_rng(0)
    rows = 60
    frame = pd.DataFrame(
        {
            "PassengerId": range(1, rows + 1),
            "Survived": draw.integers(0, 2, rows),
            "Pclass": draw.integers(1, 4, rows),
            "Name": [f"Doe, Mr. {i}" for i in range(rows)],
            "Sex": draw.choice(["male", "female"], rows),
            "Age": draw.uniform(1, 80, rows).round(1),
            "Cabin": draw.choice(["C85", "E46", "None"], rows),
        }
    )
    frame.loc[:9, "Age"] = np.nan
    frame.loc[5:39, "Cabin"] = np.nan
    frame.to_csv(here / "ship.csv", index=False)
    return here


def write(folder, text, name="t.csv", encoding="utf-8"):
    (folder / name).write_bytes(text.encode(encoding))


def test_one_line_and_the_record_say_what_became_of_the_rows(ship, stocked, capsys):
    words = [*EPOCH, "data.path=ship.csv", "data.target=Survived", "data.text=one_hot", "data.missing=drop"]
    run = gdexp.launch([*words, "loss=cross_entropy"]).iloc[0]
    line = "20 of 60 rows: 35 lack Cabin, 10 Age; 28 columns, 20 of them from Name, 3 from Cabin, 2 from Sex"
    assert f"Data: {line}\n" in capsys.readouterr().out
    import mlflow

    record = mlflow.MlflowClient("sqlite:///mlflow.db").get_run(run.run_id)
    assert record.data.tags["gdexp.data"] == line
    assert gdexp.load(run.run_id).linear.in_features == 28


def test_a_sweep_says_it_once(ship, stocked, capsys):
    words = [*EPOCH, "data.path=ship.csv", "data.target=Survived", "data.text=drop", "data.missing=median"]
    gdexp.launch([*words, "loss=cross_entropy", "seed=0,1", "model=linear,mlp"], multirun=True)
    line = "Data: 60 rows; 10 of Age filled in (median); 3 columns; left out as text: Name, Sex, Cabin\n"
    assert capsys.readouterr().out.count(line) == 1


def test_numbers_and_texts_are_pandas_bits(ship):
    theirs = pd.read_csv("ship.csv", keep_default_na=False, na_values={"Age": [""], "Cabin": [""]}).dropna()
    dummies = pd.get_dummies(theirs.drop(columns="Survived"), columns=["Name", "Sex", "Cabin"])
    x, y = table("ship.csv", "Survived", text="one_hot", missing="drop").train
    expected = dummies.to_numpy(np.float64)
    assert x.numpy().tobytes() == expected.tobytes()
    assert x.stride() == torch.from_numpy(expected).stride()  # products of matrices round by the layout in memory
    assert y.tolist() == theirs.Survived.tolist()


def test_na_and_none_are_values_of_a_text_and_gaps_among_numbers(here):
    write(here, "kind,a,y\nNA,1,1\nNone,NA,2\n,3,3\nnull,4,4\n")
    data = table("t.csv", "y", text="one_hot", missing="drop")
    assert data.train[0].tolist() == [[1, 1, 0], [4, 0, 1]]
    assert data.about.startswith("2 of 4 rows: 1 lack kind, 1 a; 3 columns")
    kinds = table("t.csv", "kind", features=["y"], missing="drop")
    assert kinds.classes == 3 and kinds.train[1].tolist() == [0, 1, 2]


@pytest.mark.parametrize("how", ["mean", "median", "most_frequent"])
def test_gaps_are_filled_by_the_training_rows_only(ship, how):
    data = table("ship.csv", "Survived", exclude=["Name"], text="one_hot", missing=how)
    parts = split(data, val_fraction=0.4, split_seed=2)
    filled = parts.after_split(parts)
    frame = pd.read_csv("ship.csv", keep_default_na=False, na_values={"Age": [""], "Cabin": [""]})
    order = torch.randperm(60, generator=torch.Generator().manual_seed(2)).numpy()
    train, val = frame.iloc[order[:36]], frame.iloc[order[36:]]
    numbers = SimpleImputer(strategy=how).fit(train[["Age"]])
    texts = SimpleImputer(strategy="most_frequent").fit(train[["Cabin"]])
    cabins = ["C85", "E46", "None"]
    for rows, (x, _) in ((train, filled.train), (val, filled.val)):
        np.testing.assert_allclose(x[:, 2], numbers.transform(rows[["Age"]])[:, 0], rtol=1e-14)
        assert [cabins[i] for i in x[:, 5:].argmax(1)] == texts.transform(rows[["Cabin"]])[:, 0].tolist()
        assert x[:, 5:].sum(1).tolist() == [1.0] * len(rows)
    assert data.about.startswith("60 rows; 35 of Cabin, 10 of Age filled in")


def test_rows_without_a_target_are_left_out_with_a_word(here):
    write(here, "a,y\n1,2\n,3\n5,\n7,9\n")
    data = table("t.csv", "y", missing="mean")
    assert data.train[1].ravel().tolist() == [2, 3, 9]
    assert data.about.startswith("3 of 4 rows: 1 lack y; 1 of a filled in (mean)")


FILES = {
    "semicolons": ("a;b;y\n1,5;2;3,5\n2,5;3;4,5\n", "utf-8"),
    "latin": ("größe;b;y\n1,5;2;3,5\n2,5;3;4,5\n", "latin-1"),
    "commas": ('a,b,y\n"1,5",2,"3,5"\n"2,5",3,"4,5"\n', "utf-8"),
    "tabs": ("a\tb\ty\n1.5\t2\t3.5\n2.5\t3\t4.5\n", "utf-8"),
    "utf-16": ("a,b,y\n1.5,2,3.5\n2.5,3,4.5\n", "utf-16"),
    "title": ("Made by X\nin 2001\na,b,y\n1.5,2,3.5\n2.5,3,4.5\n", "utf-8"),
    "marks": ("a,b,y\n1.5,2,3.5\n2.5,3,4.5\n2.5,?,4.5\n2.5,-,4.5\n", "utf-8"),
    "spaces": ("a b y\n1.5 2 3.5\n2.5 3 4.5\n", "utf-8"),
    "remark": ("# made by X, in 2001\na,b,y\n1.5,2,3.5\n2.5,3,4.5\n", "utf-8"),
    "wide title": ("Report,,\n,,\na,b,y\n1.5,2,3.5\n2.5,3,4.5\n", "utf-8"),
    "sep=": ("sep=,\na,b,y\n1.5,2,3.5\n2.5,3,4.5\n", "utf-8"),
    "no mark of bytes": ("a,b,y\n1.5,2,3.5\n2.5,3,4.5\n", "utf-16-le"),
    "headless remark": ("# table\n# of X\n1.5,2,3.5\n2.5,3,4.5\n", "utf-8"),
    "headless": ("1.5,2,3.5\n2.5,3,4.5\n", "utf-8"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_not_written_as_usual_is_told_the_words_that_read_it(stocked, name):
    text, encoding = FILES[name]
    write(stocked, text, encoding=encoding)
    write(stocked, "a,b,y\n1.5,2,3.5\n2.5,3,4.5\n", "usual.csv")
    words = [*EPOCH, "data.val_fraction=0", "data.missing=drop"]
    usual = gdexp.launch([*words, "data.path=usual.csv", "data.target=y"])
    words += ["data.path=t.csv", f"data.target={'2' if name.startswith('headless') else 'y'}"]
    with pytest.raises(ValueError, match=r"`data\.(path|target)`.*: add ") as refusal:
        gdexp.launch(words)
    assert "\n" not in str(refusal.value)
    told = re.split(r",? (?:or|which) ", str(refusal.value).partition(": add ")[2])[0]
    again = gdexp.launch([*words, *shlex.split(told)])
    assert again.train_loss.tolist() == usual.train_loss.tolist()


def test_a_character_may_be_typed_for_its_name(here):
    write(here, "a;y\n1,5;2,5\n2,5;3,5\n")
    data = table("t.csv", "y", separator=";", decimal=",")
    assert data.train[0].tolist() == [[1.5], [2.5]]


def test_years_as_names_are_no_row(here):
    write(here, "country,2019,2020\nA,1,2\nB,3,4\n")
    assert table("t.csv", "country").train[0].tolist() == [[1, 2], [3, 4]]
    write(here, "5,7\n1,2\n3,4\n")
    assert table("t.csv", 7, header=True).train[0].tolist() == [[1], [3]]


def test_a_target_of_numbers_with_a_mark_is_not_taken_for_classes(here):
    write(here, "a,y\n" + "".join(f"{i},{i / 2 if i else '?'}\n" for i in range(9)))
    with pytest.raises(ValueError, match=r"column 'y' holds '\?' in 1 of 9 rows"):
        table("t.csv", "y")
    assert table("t.csv", "y", na_values="?", missing="drop").train[1].ravel().tolist() == [i / 2 for i in range(1, 9)]


@pytest.mark.parametrize(
    ("text", "words", "values"),
    [
        ('a,y\n"1,234.5",1\n999,2\n', {"thousands": "comma"}, [1234.5, 999]),
        ("a;y\n1.234,5;1\n2.000;2\n", {"separator": ";", "decimal": ",", "thousands": "."}, [1234.5, 2000]),
        ("a;y\n1 234,5;1\n999;2\n", {"separator": ";", "decimal": ",", "thousands": "space"}, [1234.5, 999]),
        ("a;y\n1\u202f234;1\n999;2\n", {"separator": ";", "thousands": "space"}, [1234, 999]),
        ("a;y\n1\u2019234.5;1\n999;2\n", {"separator": ";", "thousands": "apostrophe"}, [1234.5, 999]),
        ("a;y\n1,5;1\n?;2\n2;3\n", {"separator": ";", "decimal": ",", "na_values": "?", "missing": "drop"}, [1.5, 2]),
    ],
)
def test_numbers_as_people_write_them_are_never_texts(here, text, words, values):
    write(here, text)
    assert table("t.csv", "y", **words).train[0].ravel().tolist() == values
    for key in words.keys() - {"separator", "missing"}:
        without = {k: v for k, v in words.items() if k != key}
        with pytest.raises(ValueError, match=f"add '?data.{key}="):
            table("t.csv", "y", text="one_hot", **without)


def test_a_rare_word_among_many_numbers_is_told(here):
    write(here, "a,y\n" + "".join(f"{i if i % 7 else 'unknown'},{i}\n" for i in range(40)))
    with pytest.raises(ValueError, match=r"'unknown' in 6 of 40 rows.*add 'data.na_values=\[unknown\]'"):
        table("t.csv", "y", text="one_hot")
    assert table("t.csv", "y", text="one_hot", categories=["a"]).train[0].shape == (40, 35)


@pytest.mark.parametrize(
    "form", ["{}.5%", "${}", "$({})", "{}.5 km", "€ {}", "US${}", "({})", "\u2212{}", "{} min", "{}+"]
)
@pytest.mark.parametrize("role", ["target", "feature"])
def test_numbers_with_a_sign_or_a_unit_are_never_classes(here, form, role):
    rows = [f'{i},"{form.format(i)}"' for i in range(1, 30)]
    write(here, "\n".join(["a,y", *rows]))
    target = "y" if role == "target" else "a"
    with pytest.raises(ValueError, match="column 'y' holds numbers such as .* none is read .* 'data.categories=.y.'"):
        table("t.csv", target, text="one_hot")
    table("t.csv", target, categories=["y"])


@pytest.mark.parametrize(
    "names",
    [
        ["<=50K", ">50K"],
        ["<30", ">30", "NO"],
        ["36 months", "60 months"],
        ["1st", "2nd", "3rd"],
        ["0-17", "18-25", "26-35", "36-45", "46-50", "51-55", "55+"],
        ["< 1 year", "1 year", "10+ years", *(f"{i} years" for i in range(2, 10))],
        [f"room {i}" for i in range(30)],
        [f"C{i}" for i in range(30)],
    ],
)
def test_classes_may_have_numbers_in_their_names(here, names):
    write(here, "a,y\n" + "".join(f"{i},{names[i % len(names)]}\n" for i in range(3 * len(names))))
    assert table("t.csv", "y").classes == len(names)


def test_texts_that_are_nearly_all_different_are_no_classes(here):
    write(here, "a,y\n" + "".join(f"{i},2020-01-{1 + i % 28:02}\n" for i in range(30)))
    with pytest.raises(ValueError, match=r"'y' holds 28 different texts in 30 rows \('2020-01-01'\)"):
        table("t.csv", "y")
    assert table("t.csv", "y", categories=["y"]).classes == 28


def test_a_line_that_tells_what_to_add_keeps_what_was_there(here):
    write(here, "k,a,b,y\n" + "".join(f"{i},u,{i}%,{i}\n" for i in range(9)))
    with pytest.raises(ValueError, match=r"add 'data.categories=\[k, b\]'"):
        table("t.csv", "y", categories=["k"], text="one_hot")
    with pytest.raises(ValueError, match=r"'data.exclude=\[b, a\]'"):
        table("t.csv", "y", exclude=["b"])
    with pytest.raises(ValueError, match=r"'data.exclude=\[k, b\]'"):
        table("t.csv", "y", exclude=["k"], text="drop")


def test_numbers_in_a_parquet_file_may_be_texts(here):
    pd.DataFrame({"a": ["1.234,5", "7"], "y": [1, 2]}).to_parquet("t.parquet")
    with pytest.raises(ValueError, match="add data.decimal=comma data.thousands=point"):
        table("t.parquet", "y")
    data = table("t.parquet", "y", decimal="comma", thousands="point")
    assert data.train[0].tolist() == [[1234.5], [7]]


def test_na_values_may_be_numbers(here):
    write(here, "a,y\n1,1\n-999,2\n3,3\n")
    assert table("t.csv", "y", na_values=[-999], missing="drop").train[0].tolist() == [[1], [3]]


def test_numbers_that_are_too_large_for_an_integer_are_numbers(here):
    write(here, "a,y\n1,99999999999999999999\n3,4\n")
    data = table("t.csv", "y")
    assert data.classes is None and data.train[1].tolist() == [[1e20], [4]]


def test_lines_above_the_names_are_counted_as_they_stand(here):
    write(here, "Made by X\n\na,y\n1,2\n3,4\n")
    assert table("t.csv", "y", header=2).train[0].tolist() == [[1], [3]]


def test_a_line_of_totals_is_told_as_the_last_row(here):
    write(here, "a,b,y\n" + "".join(f"{i},{2 * i},{i / 2}\n" for i in range(12)) + "Total,132,33\n")
    with pytest.raises(ValueError, match=r"'Total' in the last of 13 rows.*add 'data.na_values=\[Total\]' data"):
        table("t.csv", "y")
    assert len(table("t.csv", "y", na_values="Total", missing="drop").train[0]) == 12


def test_names_as_numpy_writes_them_are_not_shifted(here):
    np.savetxt("t.csv", [[1, 2, 3], [4, 5, 6]], header="a b y")
    with pytest.raises(ValueError, match="begin with '#'.* data.comment=hash data.header=false"):
        table("t.csv", "b", features=["a"], separator="spaces")
    data = table("t.csv", 1, features=[0], separator="spaces", comment="#", header=False)
    assert data.train[0].tolist() == [[1], [4]] and data.train[1].ravel().tolist() == [2, 5]


def test_comments_are_left_out(here):
    write(here, "# by X\na,y\n1,2 # twice\n# none\n3,6\n")
    data = table("t.csv", "y", comment="hash")
    assert data.train[0].tolist() == [[1], [3]] and data.train[1].tolist() == [2, 6]


def test_blanks_around_a_text_make_no_other_text(here):
    write(here, 'a,y\n1," cat"\n2,dog \n3,cat\n4,"dog"\n5,"  "\n')
    data = table("t.csv", "y", missing="drop")
    assert data.classes == 2 and data.train[1].tolist() == [0, 1, 0, 1]


def test_a_file_of_another_kind_is_told_what_is_read(here):
    np.savez("t.npz", x=np.ones(3))
    with pytest.raises(ValueError, match="holds no text: data=table reads CSV and Parquet files"):
        table("t.npz", "y")


def test_numbers_beyond_64_bits_keep_their_sign(here):
    write(here, "a,y\n1,9223372036854775813\n2,4\n")
    data = table("t.csv", "y")
    assert data.train[1].tolist() == [[9223372036854775813.0], [4.0]]
    pd.DataFrame({"a": [1, 2], "y": np.array([2**63 + 5, 4], dtype="uint64")}).to_parquet("t.parquet")
    assert table("t.parquet", "y").train[1].tolist() == [[9223372036854775808.0], [4.0]]


def test_cells_without_a_name_are_no_names_of_rows_where_two_are_equal(here):
    write(here, "a,y\n1,5,2\n1,7,3\n2,5,4\n")  # decimal commas between commas
    with pytest.raises(ValueError, match="has 3 cells in a row, but 2 names"):
        table("t.csv", "y")


def test_the_index_of_a_parquet_file_is_left_out_with_a_word(here):
    frame = pd.DataFrame({"id": list("uvw"), "a": [1, 2, 3], "y": [2, 4, 6]})
    frame.set_index("id").to_parquet("t.parquet")
    assert "left out: the index id, which reset_index() makes columns of" in table("t.parquet", "y").about
    frame[["a", "y"]].iloc[[2, 0]].to_parquet("t.parquet")
    assert table("t.parquet", "y").about == "2 rows; 1 column"


def test_zip_codes_are_texts_in_order_of_size(here):
    write(here, "zip,y\n10001,1\n01234,2\n9,3\n10001,4\n")
    data = table("t.csv", "y", categories=["zip"])
    assert data.train[0].tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 0, 1]]
    classes = table("t.csv", "zip", categories=["zip"])
    assert classes.classes == 3 and classes.train[1].tolist() == [2, 1, 0, 2]


def test_several_targets_are_learnt_together(stocked):
    write(stocked, "a,y,z\n" + "".join(f"{i},{2 * i},{i / 2}\n" for i in range(10)))
    run = gdexp.launch([*EPOCH, "data.path=t.csv", "data.target=[z,y]"]).iloc[0]
    assert gdexp.load(run.run_id).linear.weight.shape == (2, 1)
    assert table("t.csv", ["z", "y"]).train[1].tolist() == [[i / 2, 2.0 * i] for i in range(10)]


def test_weights_stand_beside_inputs_and_target(here):
    write(here, "a,w,y\n" + "".join(f"{i},{i + 0.5},{2 * i}\n" for i in range(10)))
    data = split(table("t.csv", "y", weights="w"), val_fraction=0.3)
    for part in data[:2]:
        assert isinstance(part, Weighted) and part.inputs.shape[1] == 1
        assert torch.equal(part.weights, part.inputs.ravel() + 0.5)


def test_weights_count_in_the_loss(stocked):
    draw = np.random.default_rng(0)
    frame = pd.DataFrame({"a": draw.normal(size=40), "w": draw.uniform(0, 2, 40), "y": draw.normal(size=40)})
    frame.to_csv("t.csv", index=False)
    words = ["data=table", "data.path=t.csv", "data.target=y", "data.weights=w", "data.split_seed=null"]
    run = gdexp.launch([*words, "trainer.epochs=1", "optimizer.lr=1e-30"]).iloc[0]
    with torch.no_grad():
        output = gdexp.load(run.run_id)(torch.tensor(frame[["a"]].to_numpy(np.float32))).ravel().numpy()
    for rows, loss in ((slice(0, 32), run.train_loss), (slice(32, 40), run.val_loss)):
        part = frame.iloc[rows]
        assert loss == pytest.approx(np.average((output[rows] - part.y) ** 2, weights=part.w), rel=1e-5)


def test_test_path_is_encoded_by_the_first_files_values(here):
    write(here, "kind,a,y\nred,1,no\nblue,,yes\nred,5,no\n")
    write(here, "y,a,kind,more\nyes,,green,0\nno,2,blue,0\n", "test.csv")
    data = table("t.csv", "y", text="one_hot", missing="mean", test_path="test.csv")
    filled = data.after_split(data)
    assert filled.train[0].tolist() == [[1, 0, 1], [3, 1, 0], [5, 0, 1]]
    assert filled.test[0].tolist() == [[3, 0, 0], [2, 1, 0]] and filled.test[1].tolist() == [1, 0]
    assert "test: 2 rows; 1 of a filled in (mean); 1 of these have a kind that is in none" in data.about


def test_test_path_is_measured(stocked):
    write(stocked, "a,y\n" + "".join(f"{i},{i / 2}\n" for i in range(10)))
    write(stocked, "a,y\n1,0.5\n2,1\n", "test.csv")
    run = gdexp.launch([*EPOCH, "data.path=t.csv", "data.target=y", "data.test_path=test.csv"]).iloc[0]
    with torch.no_grad():
        error = gdexp.load(run.run_id)(torch.tensor([[1.0], [2.0]])) - torch.tensor([[0.5], [1.0]])
    assert run.test_loss == pytest.approx((error**2).mean().item(), rel=1e-6)


def test_groups_of_a_column_are_scikit_learns_folds(here):
    groups = np.random.default_rng(0).choice(list("abcdefg"), 50, p=[0.4, *[0.1] * 6])
    write(here, "a,patient,y\n" + "".join(f"{i},{g},{i % 3}\n" for i, g in enumerate(groups)))
    data = table("t.csv", "y", group="patient")
    assert data.train[0].shape == (50, 1)
    for fold, (_, val) in enumerate(GroupKFold(4).split(groups, groups=groups)):
        ours = split(data, split="grouped", split_seed=None, fold=fold, folds=4).val[0]
        assert ours.ravel().tolist() == val.tolist()


def test_columns_without_a_name_are_left_out_by_name(here):
    pd.DataFrame({"a": [1, 2, 3], "y": [2.0, 4, 6]}).to_csv("t.csv")
    data = table("t.csv", "y")
    assert data.train[0].tolist() == [[1], [2], [3]]
    assert "left out: Unnamed: 0, which has no name and counts the rows" in data.about
    assert table("t.csv", "y", features=["Unnamed: 0"]).train[0].tolist() == [[0], [1], [2]]
    write(here, "a,y,\n1,2,\n3,4,\n")
    assert table("t.csv", "y").train[0].tolist() == [[1], [3]]
    write(here, "a,y\n1,2,\n3,4,\n")  # a separator at the end of each row doesn't shift the columns
    assert table("t.csv", "y").train[1].tolist() == [2, 4]
    write(here, "a,y\nfirst,1,2\nsecond,3,4\n")  # as R writes the names of rows
    data = table("t.csv", "y")
    assert data.train[0].tolist() == [[1], [3]] and "names the rows" in data.about


def test_bytes_that_are_no_text_and_lines_within_a_cell(here):
    write(here, '\ufeff"a","note","y"\n1,"two\nlines, one cell",2\n3,"x",4\n')
    data = table("t.csv", "y", text="one_hot")
    assert data.train[0].tolist() == [[1, 1, 0], [3, 0, 1]]


def test_excluded_and_parquet(here):
    frame = pd.DataFrame({"a": [1.0, 2, None], "k": ["NA", "b", None], "y": [1, 2, 3]})
    frame.to_parquet("t.parquet")
    data = table("t.parquet", "y", exclude=["a"], text="one_hot", missing="drop")
    assert data.train[0].tolist() == [[1, 0], [0, 1]] and data.about.startswith("2 of 3 rows: 1 lack k")


A = "a,b,y\n1,2,3\n4,5,6\n7,8,9\n"


@pytest.mark.parametrize(
    ("text", "words", "line"),
    [
        ("a,y,y\n1,2,3\n4,5,6\n", "", "two columns named 'y'; the second is called 'y.1'"),
        ("a,y\n1,2\n", "", "0 of 1 rows: it must leave some"),
        (A, "data.exclude=[c]", "`data.exclude`: t.csv has no column 'c'"),
        (A, "data.exclude=[y]", "can't share a column: 'y'"),
        (A, "data.weights=y", "can't share a column: 'y'"),
        (A, "data.categories=[z]", "`data.categories`: t.csv has no column 'z'"),
        ("a,y\n1.5,2\n2,3\n", "data.categories=[a]", "'a' holds 1.5, which is no whole number"),
        (A.replace("4", "-4"), "data.weights=a", "must hold numbers from 0 on"),
        (A, "data.group=a", "needs data.split=grouped"),
        (A, "data.separator=abc", "`data.separator` must be one character or its name"),
        (A, "data.encoding=latin-99", "`data.encoding`: unknown encoding"),
        (A, "data.header=-1", "`data.header` must be"),
        (A, "data.missing=zero", "`data.missing` must be one of refuse, error, drop, mean, median, most_frequent"),
        ("a,b,y\n1,,3\n4,,6\n7,,8\n", "data.missing=drop", "every row of t.csv lacks a value: 3 lack b"),
        ("a,b,y\n1,,3\n4,,6\n7,,8\n", "data.missing=mean data.val_fraction=1", "no training row has a value of 'b'"),
        ("a,b,y\n1,2,3\n4,5,6,7\n", "", "can't be read as a table"),
        (A, "data.test_path=none.csv", "`data.test_path`: no file 'none.csv'"),
        (A, "data.test_path=other.csv", "`data.test_path`: other.csv has no column 'b'"),
        (A, "data.test_path=text.csv", "column 'a' holds text ('x'), in the first file numbers"),
        (A, "data.test_path=t.csv data.test_fraction=1", "the data brings its own test rows"),
        ("a,y\n1,u\n2,v\n3,v\n", "data.test_path=label.csv loss=cross_entropy", "'w' in 'y' is no class"),
        ("a,k,y\n1,u,3\n2,v,4\n", "data.target=[y,k]", "several targets must be numbers, 'k' holds text"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(here, text, words, line):
    write(here, text)
    write(here, "a,y\n1,2\n", "other.csv")
    write(here, "a,b,y\nx,2,2\n", "text.csv")
    write(here, "a,y\n1,w\n", "label.csv")
    given = words.split()
    target = [] if any(word.startswith("data.target") for word in given) else ["data.target=y"]
    with pytest.raises(ValueError) as refusal:
        gdexp.launch([*EPOCH, "data.path=t.csv", *target, *given])
    assert line in str(refusal.value) and "\n" not in str(refusal.value)
    assert not (here / "mlflow.db").exists()
