"""Figures for a notebook: each draws what the store holds, and returns the figure."""

import numpy as np
import pytest
from matplotlib.figure import Figure

import gigacli as giga
from gigacli.errors import InvalidInput, NotFound
from gigacli.probing.attribution import TileAttribution
from gigacli.reporting import plots, svg


@pytest.fixture
def axes():
    return Figure().add_subplot()


@pytest.fixture
def store(chain):
    return giga.open(chain("embed"))


def test_tile_counts_are_those_of_the_slides(store, axes):
    assert plots.tile_counts(store.tiles.done().values, axes) is axes.figure
    assert sum(bar.get_height() for bar in axes.patches) == 8


def test_a_training_curve_has_its_chance_level(store, axes):
    model = store.model("giga")
    plots.training_curve(model, axes)
    loss, chance = axes.get_lines()
    np.testing.assert_array_equal(loss.get_ydata(), model.history("loss"))
    np.testing.assert_array_equal(chance.get_ydata(), model.history("chance"))
    assert loss.get_xdata()[0] == 1
    with pytest.raises(NotFound, match="has no history"):
        plots.training_curve(store.encoder("random-resnet18"), axes)


@pytest.mark.parametrize("method", ["pca", "t-sne"])
def test_a_map_of_vectors_gives_the_largest_groups_a_colour(store, axes, method):
    colour = ["a", "a", "a", "b", "b", "", "", ""]
    plots.vector_map(store, "giga", axes, colour=colour, method=method)
    named = {c.get_label(): len(c.get_offsets()) for c in axes.collections}
    assert named == {"others": 3, "a": 3, "b": 2}
    with pytest.raises(InvalidInput, match="umap"):
        plots.vector_map(store, "giga", axes, method="umap")


def test_tiles_lie_on_the_slide_in_level_0_pixels(store, axes):
    plots.tiles(store, store.slides.ids[0], axes)
    coords, edge_px = store.tiles.coords(0), 64 * 1.0 / store.slides[0].mpp
    corners = np.array([path.vertices[0] for path in axes.collections[0].get_paths()])
    np.testing.assert_array_equal(corners, coords)
    np.testing.assert_allclose(axes.collections[0].get_paths()[0].vertices[2], coords[0] + edge_px)
    width, height = store.slides[0].size_px
    np.testing.assert_allclose(axes.images[0].get_extent(), (0, width, height, 0), atol=4)
    with pytest.raises(NotFound, match="no slide 'x'"):
        plots.tiles(store, "x", axes)


def test_only_tiles_beyond_the_noise_are_coloured(axes):
    coords = np.array([[0, 0], [10, 0], [20, 0]], np.int32)
    found = TileAttribution(np.array([2.0, -1.0, 0.1]), np.full(3, 0.2), np.array([True, True, False]))
    plots.tile_squares(coords, 10.0, axes, small=None, attribution=found)
    grid, coloured = axes.collections
    assert (len(grid.get_paths()), len(coloured.get_paths())) == (3, 2)
    np.testing.assert_array_equal(coloured.get_array(), [2.0, -1.0])
    assert coloured.get_clim()[0] == -coloured.get_clim()[1]


@pytest.mark.parametrize(
    ("names", "columns"),
    [(["loss", "chance"], 2), (["whitened-mean-h-optimus-0, scaled, C=auto"] * 6, 1), (["x" * 99], 1)],
)
def test_the_legend_of_a_page_is_not_cut_off(names, columns, monkeypatch):
    made = []
    monkeypatch.setattr(svg, "Figure", lambda **k: made.append(Figure(**k)) or made[-1])

    def draw(axes):
        for name in names:
            axes.plot([0, 1], label=name)
        axes.legend()

    svg.svg(draw, name="curve", label="A curve")
    (legend,), renderer = made[0].legends, made[0].canvas.get_renderer()
    assert legend._ncols == columns
    assert legend.get_window_extent(renderer).x0 >= 0
    assert legend.get_window_extent(renderer).x1 <= made[0].bbox.width
    assert made[0].axes[0].get_window_extent(renderer).height > 0.4 * 2.5 * made[0].dpi


def test_one_epoch_is_epoch_1(axes, store):
    class Trained:
        history = staticmethod(lambda name: np.array([3.0]))

    plots.training_curve(Trained(), axes)
    low, high = axes.get_xlim()
    assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [1]
