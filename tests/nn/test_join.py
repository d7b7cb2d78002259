"""Blocks side by side against the formula."""

import tracemalloc

import numpy as np
import pytest
from safetensors.numpy import load, save

from gigacli.errors import InvalidInput
from gigacli.nn.join import Join


@pytest.fixture
def blocks():
    rng = np.random.default_rng(0)
    wide = rng.standard_normal((9, 4)) + 5
    return {"model": wide, "arrangement": 0.1 * rng.standard_normal((9, 3)), "view-whitened": rng.random((9, 6))}


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_it_is_the_formula(blocks):
    model, other = (unit(blocks[name] - blocks[name].mean(0)) for name in ("model", "view-whitened"))
    whole = np.concatenate([model, np.sqrt(2) * blocks["arrangement"], other], axis=1)
    np.testing.assert_allclose(Join.fit(blocks).transform(blocks), unit(whole - whole.mean(0)), atol=1e-6)


def test_one_block_is_centred_and_has_length_one(blocks):
    alone = {"model": blocks["model"]}
    once = unit(blocks["model"] - blocks["model"].mean(0))
    np.testing.assert_allclose(Join.fit(alone).transform(alone), unit(once - once.mean(0)), atol=1e-6)


def test_new_slides_use_the_means_that_are_kept(blocks):
    join = Join.fit(blocks)
    again = Join.from_state(load(save(join.state())))
    for rows in (slice(None), slice(2, 3)):
        some = {name: values[rows] for name, values in reversed(blocks.items())}
        np.testing.assert_array_equal(again.transform(some), join.transform(blocks)[rows])
    assert again.columns() == {"model": (0, 4), "arrangement": (4, 7), "view-whitened": (7, 13)}


def test_the_order_of_slides_leaves_no_trace(blocks):
    one, other = Join.fit(blocks), Join.fit({name: values[::-1] for name, values in blocks.items()})
    for name, value in one.state().items():
        assert value.tobytes() == other.state()[name].tobytes(), name


def test_parts_give_what_the_whole_gives_in_less_memory():
    rng = np.random.default_rng(3)
    whole = {"model": rng.random((6000, 40)) + 1, "arrangement": rng.random((6000, 4))}
    taken, found = [], []
    for size in (6000, 100):
        parts = [{name: rows[i : i + size] for name, rows in whole.items()} for i in range(0, 6000, size)]
        tracemalloc.start()
        found.append(Join.fit(*parts).state())
        taken.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    for name, value in found[0].items():
        np.testing.assert_allclose(value, found[1][name], rtol=1e-6, atol=1e-7, err_msg=name)
    assert taken[1] < taken[0] / 10


def test_slides_that_are_all_alike_stay_finite():
    same = {"model": np.ones((4, 3)), "arrangement": np.zeros((4, 2))}
    np.testing.assert_array_equal(Join.fit(same).transform(same), np.zeros((4, 5)))


def test_what_cannot_be_joined_is_refused(blocks):
    with pytest.raises(InvalidInput, match="needs a block that says what a slide is made of"):
        Join.fit({"arrangement": blocks["arrangement"]})
    with pytest.raises(InvalidInput, match="model of 9, other of 2"):
        Join.fit({"model": blocks["model"], "other": np.ones((2, 2))})
    with pytest.raises(InvalidInput, match="blocks are model; this join is of model, arrangement, view-whitened"):
        Join.fit(blocks).transform({"model": blocks["model"]})


def test_the_parts_of_a_score_add_up():
    """Each block's part and what is the same for every slide: together the joined vector times weights."""
    rng = np.random.default_rng(4)
    blocks = {"encoder": rng.normal(1, 1, (20, 5)), "arrangement": rng.normal(0, 0.2, (20, 3))}
    blocks["form"] = rng.normal(-1, 2, (20, 4))
    join, weights = Join.fit(blocks), rng.normal(size=12)
    for i in range(20):
        mine = {name: rows[i] for name, rows in blocks.items()}
        parts = join.gradient(mine, weights)
        whole = sum(parts[name] @ (mine[name] - join.means[name]) for name in mine)
        length = np.linalg.norm(join._side_by_side({name: row[None] for name, row in mine.items()}) - join.centre)
        score = join.transform({name: row[None] for name, row in mine.items()})[0] @ weights
        assert whole - join.centre @ weights / length == pytest.approx(score, abs=1e-5)
