"""The kinds of groups: one object per name, found by path."""

import pytest

from gigacli.errors import InvalidInput
from gigacli.store.groups import NAMED, Bank, Embedding, Encoder, Features, Model, SlideGroup, Tiles, group_at
from gigacli.store.layout import NAMED_GROUPS, WRITTEN_BY
from gigacli.store.store import Store


def test_the_kinds_are_those_of_the_format():
    assert tuple(kind.kind for kind in NAMED) == NAMED_GROUPS
    assert {kind.kind for kind in (Tiles, *NAMED)} == WRITTEN_BY.keys() - {"slides"}
    assert len({kind.input_name for kind in (Tiles, *NAMED)}) == 1 + len(NAMED)
    assert [kind for kind in NAMED if issubclass(kind, SlideGroup)] == [Features, Bank, Embedding]


def test_a_group_is_one_object_whether_it_is_there_or_not(tiny):
    store = Store.open(tiny)
    for name, kind in (("encoder", Encoder), ("features", Features), ("bank", Bank), ("model", Model),
                       ("embedding", Embedding)):  # fmt: skip
        for of in ("moco", "giga", "absent"):
            group = getattr(store, name)(of)
            assert type(group) is kind
            assert group is getattr(store, name)(of) is group_at(store, group.path)
            assert (group.store, group.name, group.path) == (store, of, f"{kind.kind}/{of}")
    assert store.tiles is store.tiles is group_at(store, "tiles")
    assert (store.tiles.name, store.tiles.path) == ("", "tiles")
    assert repr(store.bank("moco")) == f"<banks/moco of {tiny}>"


@pytest.mark.parametrize("path", ["", "tiles/", "tiles/x", "slides", "banks", "banks/", "banks/a/b", "failures/tile"])
def test_no_group(store, path):
    with pytest.raises(InvalidInput, match="is no group of results"):
        group_at(store, path)
