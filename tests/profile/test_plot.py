"""Plots and pictures are written, in the format that the name asks for."""

import copy
import dataclasses
import sys

import pytest
import torch
from matplotlib.image import imread

import odesolve as ode
from odesolve.pictures import sheets
from odesolve.profile import plotting
from tests.rows import rows


@pytest.fixture
def found(gaussian, noise, exact):
    path = ode.paths.VP()
    solvers = ["ddim", "dpmpp_2m", "ipndm_3", "ipndm_4(afs)", "rk4"]
    args = {"noise": noise, "reference": exact(path), "timing": 0}
    return ode.profile(gaussian.model(path), solvers, (5, 8, 16), ["karras", "vp_time"], **args)


def test_png_and_svg(found, tmp_path):
    found.plot(tmp_path / "plot.png")
    found.plot(tmp_path / "plot.svg", metric="rmse")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "plot.svg").read_text()
    assert "<svg" in text
    assert "ddim" in text or text.count("<path") > 50


def test_three_panels_share_their_styles(found, tmp_path):
    plotting.save([found] * 3, tmp_path / "p.png", titles=["a", "b", "c"])
    styles = plotting._styles([found], "median")
    assert (
        len({(s["color"], str(s["ls"])) for s in styles.values()})
        == len(styles)
        <= plotting.HIGHLIGHTED
    )
    assert styles["ipndm_3"]["color"] == styles["ipndm_4"]["color"]


def test_without_a_path_there_is_a_figure_that_a_notebook_draws(found):
    figure = found.plot()
    assert figure._repr_png_().startswith(b"\x89PNG")
    (panel,) = figure.axes
    assert "in the data's unit" in panel.get_ylabel()
    assert panel.get_xlabel() == "network evaluations per sample"


def test_plots_are_titled_with_the_model(found):
    found.problem["name"] = "my digits"
    (panel,) = found.plot().axes
    assert panel.get_title(loc="left") == "my digits on VP"


def _drawn(panel):
    return [line for line in panel.lines if len(line.get_xdata())]


def test_every_line_is_in_the_legend_and_none_is_cut(found):
    found.rows.append(dataclasses.replace(found.rows[0], nfe=8, calls=3, steps=3, median=0.9))
    (panel,) = found.plot().axes
    texts = [t.get_text() for t in panel.get_legend().get_texts()]
    assert len(texts) == len(_drawn(panel))
    assert any(text.startswith("ipndm_4(afs), ") for text in texts)  # as one would type it
    low, high = panel.get_xlim()
    bottom, top = panel.get_ylim()
    for line in _drawn(panel):
        assert low < min(line.get_xdata()) <= max(line.get_xdata()) < high
        assert bottom < min(line.get_ydata()) <= max(line.get_ydata()) < top


def test_panels_share_limits_that_hold_all_of_their_fronts(found):
    lower = copy.deepcopy(found)
    lower.rows = [dataclasses.replace(r, median=r.median / 1e3) for r in found.rows]
    figure = plotting.save([lower, found], None, titles=["a", "b"])
    assert len({panel.get_ylim() for panel in figure.axes}) == 1
    bottom, top = figure.axes[0].get_ylim()
    medians = [r.median for p in (lower, found) for r in p.front()]
    assert bottom < min(medians) <= max(medians) < top


def test_a_line_on_top_of_another_is_drawn_beside_it(found):
    twins = [dataclasses.replace(r, solver="euler") for r in found.rows if r.solver == "ddim"]
    found.rows += twins
    (panel,) = found.plot().axes
    beside = [line for line in _drawn(panel) if "beside it" in line.get_label()]
    assert [line.get_label().split()[0] for line in beside] == ["euler"]
    assert beside[0].get_transform() != panel.transData
    names = [line.get_label() for line in panel.lines]
    assert sum("ddim" in name for name in names) == 2


def test_solvers_that_are_not_drawn_are_counted(found, monkeypatch):
    monkeypatch.setattr(plotting, "HIGHLIGHTED", 2)
    (panel,) = found.plot().axes
    texts = [t.get_text() for t in panel.get_legend().get_texts()]
    assert "more solvers: see the table" in texts[-1]


def test_other_suffixes_are_refused(found, tmp_path):
    with pytest.raises(ode.OdesolveError, match=r"\.png"):
        found.plot(tmp_path / "plot.bmp")


def test_a_missing_matplotlib_names_the_extra(found, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'odesolve\[plot\]'"):
        found.plot(tmp_path / "plot.png")


def test_a_sheet_of_pictures():
    images = torch.stack([torch.full((1, 2, 3), v) for v in (-1.0, 0.0, 1.0)])
    sheet = sheets.tiled(images, columns=2, gap=1)
    assert sheet.shape == (5, 7, 3)
    assert sheet[0, 0].tolist() == [0, 0, 0]
    assert sheet[0, 4].tolist() == [0.5, 0.5, 0.5]
    assert sheet[3, 4].tolist() == [1, 1, 1]  # no fourth image: white


def test_rows_of_pictures(tmp_path):
    images = torch.zeros(4, 3, 8, 8)
    sheets.save_rows([("a", images), ("b", images)], tmp_path / "rows.png")
    assert (tmp_path / "rows.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ode.OdesolveError, match="no pictures"):
        sheets.save_grid(torch.zeros(4, 2), tmp_path / "x.png")


@rows(
    ("shape", "factor"),
    [
        ((1, 1, 8, 8), 32),
        ((16, 1, 8, 8), 32),
        ((256, 1, 8, 8), 9),
        ((16, 3, 32, 32), 8),
        ((64, 3, 32, 32), 4),
        ((10000, 1, 8, 8), 6),
        ((16, 3, 256, 256), 1),
        ((1, 3, 1024, 1024), 1),
        ((5, 1, 3, 37), 6),
        ((1, 1, 113, 57), 2),
    ],
)
def test_small_pictures_are_enlarged_by_whole_factors(tmp_path, shape, factor):
    assert sheets.enlarged(shape) == factor
    if shape[0] * shape[-1] * shape[-2] > 2**18:
        return
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    sheets.write(images, tmp_path / "x.png")
    drawn = torch.from_numpy(imread(tmp_path / "x.png")[..., :3])
    expected = sheets.tiled(images, gap=2, scale=factor)
    assert drawn.shape == expected.shape
    assert torch.equal((255 * drawn).round(), (255 * expected).floor())  # matplotlib cuts to 8 bits
    first = drawn[: factor * shape[-2], : factor * shape[-1]]
    blocks = first.unflatten(1, (shape[-1], factor)).unflatten(0, (shape[-2], factor))
    assert (blocks == blocks[:, :1, :, :1]).all()


@rows("pixels", range(100, 140))
def test_no_pixel_is_lost(tmp_path, pixels):
    sheets.save_grid(torch.zeros(1, 1, pixels, pixels), tmp_path / "x.png", scale=1)
    assert imread(tmp_path / "x.png").shape[:2] == (pixels, pixels)


@rows(("shape", "told"), [((4, 2), "no pictures"), ((50_000_000, 1, 8, 8), "too many")])
def test_what_cannot_be_drawn_is_known_before(shape, told):
    with pytest.raises(ode.OdesolveError, match=told):
        sheets.check_shape(shape, "x.png")
    sheets.check_shape(shape, "x.npz")
