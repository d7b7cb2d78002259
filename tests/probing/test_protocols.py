from __future__ import annotations

import pandas as pd
import pytest

from gigacli.errors import InvalidInput, NotFound
from gigacli.probing.protocols import named_splits, split_of_column
from gigacli.probing.splits import read_splits
from gigacli.tables import read_columns

PATHO_BENCH = """case_id\tslide_id\tBAP1_mutation\tfold_0\tfold_1\tfold_10\tfold_2
C3L-1\tC3L-1-21\t0\ttrain\ttest\tval\ttrain
C3L-1\tC3L-1-22\t0\ttrain\ttest\tval\ttrain
C3L-2\tC3L-2-21\t1\ttest\ttrain\ttrain\t
C3N-3\tC3N-3-21\t1\ttrain\ttrain\ttest\ttest
"""
SLIDES = ["C3L-1-21", "C3L-1-22", "C3L-2-21", "C3N-3-21"]


def indices(splits):
    return [(split.train.tolist(), split.test.tolist()) for split in splits]


def test_patho_bench(csv):
    path = csv(PATHO_BENCH, "k=all.tsv")
    splits, notes = read_splits(path, SLIDES)
    assert indices(splits) == [([0, 1, 3], [2]), ([2, 3], [0, 1]), ([0, 1], [3]), ([2], [3])]
    assert notes == ["3 names in the splits are on neither side, for validation, and are left out."]
    assert indices(read_splits(pd.read_csv(path, sep="\t"), SLIDES)[0]) == indices(splits)
    assert [split.source.split("'")[1] for split in named_splits(path)] == ["fold_0", "fold_1", "fold_2", "fold_10"]


def test_patho_bench_of_patients(csv):
    """Slides of one patient count once, where patients are split; a table may name patients alone."""
    patients = ["C3L-1", "C3L-1", "C3L-2", "C3N-3"]
    assert indices(read_splits(csv(PATHO_BENCH), SLIDES, patients=patients)[0])[:2] == [([0, 2], [1]), ([1, 2], [0])]
    alone = csv("case_id,slide_id,fold_0\nC3L-1,,train\nC3N-3,,test\n")
    assert indices(read_splits(alone, SLIDES, patients=patients)[0]) == [([0], [2])]


CLAM = ",train,val,test\n0,a,c,d\n1,b,,\n"
CLAM_BOOL = ",train,val,test\na,True,False,False\nb,True,False,False\nc,False,True,False\nd,False,False,True\n"


def test_clam(csv):
    """`splits_k.csv` with a saved row number; its twin of True and False stands beside it, and says the same."""
    folder = csv(CLAM, "both/splits_0.csv").parent
    csv(CLAM_BOOL, "both/splits_0_bool.csv")
    csv(",train,val,test\nnormal,1,1,1\n", "both/splits_0_descriptor.csv")
    csv(CLAM.replace("a,c,d", "d,c,a"), "both/splits_10.csv")
    csv(CLAM, "both/splits_9.csv")
    alone = csv(CLAM_BOOL, "bool/splits_0_bool.csv").parent
    csv(",train,val,test\nnormal,1,1,1\n", "bool/splits_0_descriptor.csv")
    splits, notes = read_splits(folder, list("abcd"))
    assert indices(splits) == [([0, 1], [3]), ([0, 1], [3]), ([3, 1], [0])]
    assert notes == ["3 names in the splits are on neither side, for validation, and are left out."]
    for source in (alone, alone / "splits_0_bool.csv"):
        splits, notes = read_splits(source, list("abcd"))
        assert indices(splits) == [([0, 1], [3])]
        assert notes == ["1 names in the splits are on neither side, for validation, and are left out."]


def test_the_authors_files_are_as_they_were(tcga):
    """And one file of a folder is a split, too."""
    folder = tcga / "splits" / "tnbc" / "full"
    table = read_columns(folder / "split_3.csv")
    split = named_splits(folder)[3]
    assert split.train == tuple(name for name in table["train"] if name)
    assert split.test == tuple(name for name in table["test"] if name)
    assert named_splits(folder / "split_3.csv") == [split]


@pytest.mark.parametrize("as_frame", [True, False])
def test_a_column_of_the_labels(csv, as_frame):
    """Rows of the labels that have no vector are no error: the labels' own count says so."""
    cells = "slide_id,label,Set\na,1,Train\nb,2,TEST\nc,1,\ngone,1,train\n"
    source = csv(cells)
    source = pd.read_csv(source) if as_frame else source
    splits, notes = read_splits(source, list("abc"), column="set")
    assert indices(splits) == [([0], [1])]
    assert notes[0].startswith("1 of the 3 names in the splits have no label or vector: 'gone'")


def test_what_a_column_may_not_say(csv):
    path = csv("slide_id,set\na,train\nb,tset\n")
    with pytest.raises(InvalidInput, match="the column 'set' says 'tset'") as error:
        read_splits(path, list("ab"), column="set")
    assert error.value.hint == "It should say train or test."
    with pytest.raises(InvalidInput, match="no column 'cohort': found 'slide_id', 'set'"):
        read_splits(path, list("ab"), column="cohort")
    with pytest.raises(InvalidInput, match="no slide on the test side of the column 'set'"):
        read_splits(csv("slide_id,set\na,train\nb,val\n"), list("ab"), column="set")
    with pytest.raises(InvalidInput, match="no column 'slide_id'"):
        split_of_column({"label": ["x"], "set": ["train"]}, "set", "t.csv")


def test_a_table_without_folds(csv):
    with pytest.raises(InvalidInput, match="no column 'train': found 'slide_id', 'label'"):
        named_splits(csv("slide_id,label\na,1\n"))
    with pytest.raises(NotFound, match="is not a folder and not a table"):
        named_splits("gone")
