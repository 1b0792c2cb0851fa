"""The pictures of a run: what is drawn, what is refused, and what is left in the folder."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

matplotlib_image = pytest.importorskip("matplotlib.image")

from daps_rl import report  # noqa: E402  (after the check for matplotlib)
from daps_rl.report import figures as figures_module  # noqa: E402
from daps_rl.report import learning_curves, reconstructions  # noqa: E402

ORANGE = np.array([230, 159, 0])


def read_png(path: Path) -> np.ndarray:
    """Returns the picture as uint8 RGB [H, W, 3], and fails where it is blank or partly transparent."""
    pixels = (matplotlib_image.imread(path) * 255).round().astype(np.uint8)
    assert pixels.shape[2] == 4
    assert (pixels[..., 3] == 255).all()
    assert pixels[..., :3].std() > 1.0
    assert (pixels[0, 0, :3] == 255).all()
    return pixels[..., :3]


def make_rows(number: int) -> list[dict[str, Any]]:
    """Returns log rows of a run whose first steps are terrible and whose values are otherwise smooth."""
    rows: list[dict[str, Any]] = []
    for step in range(number):
        row: dict[str, Any] = {"step": step, "beta_elbo": -30.0 - 20.0 * math.exp(-5 * step / number), "ESS": 0.34}
        row |= {"ess_target": 0.33, "temperature": 2.0 + math.sin(step), "temperature_floor": 0.5, "entropy": 9.0}
        if step % 10 == 0:
            row["validation_beta_elbo"] = row["beta_elbo"] - 1.0
        rows.append(row)
    rows[0]["beta_elbo"] = -9e6
    return rows


class TestReconstructions:
    @pytest.mark.parametrize("shape", [(1, 1, 8, 8), (16, 3, 32, 32), (3, 1, 28, 20), (1, 3, 300, 400), (40, 1, 8, 8)])
    def test_images_are_written(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        report.plot_reconstructions(tmp_path / "a.png", images, images * 0.5, 1 - images, title="Title")
        height, width = read_png(tmp_path / "a.png").shape[:2]
        assert 3 * 50 < height < 1500
        assert 250 < width < 1500

    def test_every_pixel_is_a_square_of_the_given_colour(self, tmp_path: Path) -> None:
        colours = torch.tensor([[200, 40, 80], [40, 200, 120], [10, 40, 220]]) / 255.0  # original, greedy, sampled
        parts = [colour.view(1, 3, 1, 1).repeat(2, 1, 4, 4) for colour in colours]
        report.plot_reconstructions(tmp_path / "a.png", *parts)
        pixels = read_png(tmp_path / "a.png")
        tops = []
        for colour in colours:
            hit = (pixels == (colour * 255).round().numpy().astype(np.uint8)).all(axis=2)
            ys, xs = np.nonzero(hit)
            edge = int(ys.max() - ys.min() + 1)
            assert edge % 4 == 0
            assert edge > 60
            assert hit.sum() == 2 * edge * edge  # two images, no pixel blended at a border
            tops.append(int(ys.min()))
            assert xs.min() > 100  # right of the labels
        assert tops == sorted(tops)
        assert len(set(tops)) == 3

    def test_grid_wraps_beyond_sixteen(self, tmp_path: Path) -> None:
        heights = []
        for number in (16, 17):
            images = torch.rand(number, 1, 8, 8)
            report.plot_reconstructions(tmp_path / "a.png", images, images, images)
            heights.append(read_png(tmp_path / "a.png").shape[0])
        assert heights[1] > 1.8 * heights[0]

    @pytest.mark.parametrize(("value", "shown"), [(-1.0, 0), (0.0, 128), (1.0, 255), (7.0, 255), (-math.inf, 0)])
    def test_value_range_is_black_to_white(self, value: float, shown: int) -> None:
        pixels = reconstructions._to_pixels(torch.full((1, 1, 2, 2), value), (-1.0, 1.0))
        assert (pixels == shown).all()

    def test_nan_pixels_are_orange(self, tmp_path: Path) -> None:
        images = torch.zeros(1, 1, 8, 8)
        broken = images.clone()
        broken[0, 0, 2, 3] = math.nan
        report.plot_reconstructions(tmp_path / "a.png", images, broken, images)
        assert (read_png(tmp_path / "a.png") == ORANGE).all(axis=2).sum() == 16 * 16  # one pixel, enlarged 16 times

    def test_a_tensor_with_a_graph_in_another_type_is_taken_and_not_changed(self, tmp_path: Path) -> None:
        images = torch.full((2, 1, 8, 8), 0.5, dtype=torch.bfloat16, requires_grad=True)
        report.plot_reconstructions(tmp_path / "a.png", images, images, images)
        assert images.requires_grad
        assert (images == 0.5).all()
        read_png(tmp_path / "a.png")

    @pytest.mark.parametrize("shape", [(1, 12), (3, 1), (5, 20, 1), (7, 20, 6), (2, 1, 3)])
    def test_other_data_become_line_plots(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        data = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        report.plot_reconstructions(tmp_path / "a.png", data, data * 0.9, data * 0.5, title="Title")
        assert read_png(tmp_path / "a.png").shape[1] == 1200

    def test_original_and_reconstructions_are_overlaid(self, figures: list[Any]) -> None:
        parts = torch.randn(3, 5, 12)
        report.plot_reconstructions("a.png", *parts)
        shown = [axes for axes in figures[0].axes if axes.get_visible()]
        assert len(shown) == 5
        for datum, axes in enumerate(shown):
            for line, part in zip(axes.lines, parts, strict=True):
                np.testing.assert_allclose(line.get_ydata(), part[datum])
        assert [text.get_text() for text in figures[0].legends[0].get_texts()] == [
            "original",
            "greedy code",
            "sampled code",
        ]

    def test_a_long_title_and_the_legend_have_room(self, figures: list[Any]) -> None:
        report.plot_reconstructions("a.png", *torch.randn(3, 5, 12), title="a/long/path/to/the/data: " * 3)
        figure = figures[0]
        figure.canvas.draw()
        words = [figure.legends[0], figure._suptitle, *(axes.xaxis.label for axes in figure.axes)]
        boxes = [word.get_window_extent() for word in words]
        assert not any(boxes[0].overlaps(box) or boxes[1].overlaps(box) for box in boxes[2:] if box.width)
        assert not boxes[0].overlaps(boxes[1])

    def test_the_most_varied_features_get_a_lane_each(self, figures: list[Any]) -> None:
        scale = torch.tensor([0.1, 5.0, 0.2, 4.0, 3.0, 2.0])
        data = torch.sin(torch.arange(30.0)).view(1, 30, 1) * scale
        report.plot_reconstructions("a.png", data, data, data + 1e6)
        axes = figures[0].axes[0]
        assert [label.get_text() for label in axes.get_yticklabels()] == [f"feature {i}" for i in (5, 4, 3, 1)]
        low, high = axes.get_ylim()
        values = np.stack([line.get_ydata() for line in axes.lines])  # 3 parts x 4 lanes
        assert values[:4].min() > low
        assert values[:4].max() < high
        np.testing.assert_array_equal(np.floor(values[:4].mean(axis=1)), [3, 2, 1, 0])
        assert values.max() < high + 0.5  # a wild reconstruction is cut off

    def test_unusable_values_in_series_are_tolerated(self, tmp_path: Path) -> None:
        data = torch.randn(2, 9)
        data[0, 3], data[1, 2] = math.nan, math.inf
        report.plot_reconstructions(tmp_path / "a.png", data, torch.full_like(data, math.nan), data)
        read_png(tmp_path / "a.png")

    @pytest.mark.parametrize("shape", [(4,), (0, 1, 8, 8), (2, 0), (1, 1, 1, 2, 2)])
    def test_other_shapes_are_refused(self, shape: tuple[int, ...]) -> None:
        images = torch.zeros(shape)
        with pytest.raises(ValueError, match=r"original must be \[N, C, H, W\]"):
            report.plot_reconstructions("a.png", images, images, images)

    def test_shapes_must_agree(self) -> None:
        images, fewer = torch.zeros(2, 1, 8, 8), torch.zeros(1, 1, 8, 8)
        with pytest.raises(ValueError, match="greedy code must have the shape of original"):
            report.plot_reconstructions("a.png", images, fewer, images)
        with pytest.raises(ValueError, match="sampled code must have the shape"):
            report.plot_reconstructions("a.png", images, images, fewer)

    def test_too_many_data_are_refused(self) -> None:
        images = torch.zeros(129, 1, 2, 2)
        with pytest.raises(ValueError, match="at most 128 data, got 129"):
            report.plot_reconstructions("a.png", images, images, images)

    @pytest.mark.parametrize("value_range", [(1.0, 1.0), (1.0, 0.0), (math.nan, 1.0), (0.0, math.inf)])
    def test_value_range_must_increase(self, value_range: tuple[float, float]) -> None:
        images = torch.zeros(1, 1, 8, 8)
        with pytest.raises(ValueError, match="value_range must be finite and increasing"):
            report.plot_reconstructions("a.png", images, images, images, value_range=value_range)


class TestSheet:
    def test_a_labelled_row_for_each_reconstruction(self, figures: list[Any]) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        images = torch.rand(5, 1, 8, 8)
        labels = ["original", "a\n20 dB", "an agent with a very long name", "c", "d"]
        report.plot_sheet("a.png", dict.fromkeys(labels, images), title="Title")
        texts = figures[0].texts
        assert [text.get_text() for text in texts] == ["Title", *labels]
        FigureCanvasAgg(figures[0]).draw()
        assert min(text.get_window_extent().x0 for text in texts) >= 0  # no label is cut off

    @pytest.mark.parametrize("channels", [2, 4])
    def test_other_numbers_of_channels_are_averaged_to_grey(self, channels: int) -> None:
        images = torch.zeros(1, channels, 2, 2)
        images[:, 0] = 1.0
        pixels = reconstructions._to_pixels(images, (0.0, 1.0))
        assert (pixels == round(255 / channels)).all()

    def test_many_series_are_told_apart(self, figures: list[Any]) -> None:
        report.plot_sheet("a.png", {f"line\n{index}": torch.randn(2, 9) for index in range(9)})
        looks = [str(look) for look, _ in zip(figures_module.looks(), range(21), strict=False)]
        assert len(set(looks)) == 21
        assert len(figures[0].axes[0].lines) == 9
        assert [text.get_text() for text in figures[0].legends[0].get_texts()] == [f"line {i}" for i in range(9)]

    def test_as_many_images_as_fit_are_one_line(self, tmp_path: Path) -> None:
        for width in (8, 64, 128):
            number = report.images_in_a_line(width)
            assert 8 <= number <= 16
            assert reconstructions._image_grid(number, 8, width)[1] == 1
            assert reconstructions._image_grid(number + 1, 8, width)[1] == 2


class TestLearningCurves:
    @pytest.mark.parametrize("number", [1, 2, 12, 300])
    def test_any_number_of_rows(self, tmp_path: Path, number: int) -> None:
        report.plot_learning_curves(tmp_path / "a.png", make_rows(number), title="A $ title & its % signs $")
        assert read_png(tmp_path / "a.png").shape == (800, 1200, 3)

    def test_many_rows_are_thinned(self, figures: list[Any]) -> None:
        report.plot_learning_curves("a.png", make_rows(20_000))
        curves = [line for axes in figures[0].axes for line in axes.lines if len(line.get_xdata()) > 2]
        assert len(curves) == 11  # as logged and smooth in four panels, validation, target and floor
        for line in curves:
            steps = line.get_xdata()
            assert len(steps) == 2000
            assert steps[0] == 0
            assert steps[-1] >= 19_990

    @pytest.mark.parametrize("number", [12, 100])
    def test_terrible_first_steps_do_not_set_the_range(self, figures: list[Any], number: int) -> None:
        rows = make_rows(number)
        report.plot_learning_curves("a.png", rows)
        low, high = figures[0].axes[0].get_ylim()
        assert -50 < low < -42
        assert -31 < high < -28
        values = [row[key] for row in rows for key in ("beta_elbo", "validation_beta_elbo") if key in row]
        hidden = sum(value < low for value in values)
        assert 1 < hidden < 8  # the first step of train and of validation at least
        assert figures[0].axes[0].get_legend().get_title().get_text() == f"points below the panel: {hidden}"

    def test_a_tame_curve_is_shown_whole(self, figures: list[Any]) -> None:
        report.plot_learning_curves("a.png", [{"step": i, "beta_elbo": float(i)} for i in range(100)])
        low, high = figures[0].axes[0].get_ylim()
        assert low < -5
        assert high > 104
        assert figures[0].axes[0].get_legend().get_title().get_text() == ""

    def test_target_and_floor_are_dashed_lines(self, figures: list[Any]) -> None:
        rows = [
            {"step": i, "ESS": 0.5, "ess_target": 0.33, "temperature": 1.0, "temperature_floor": 0.5**i} for i in (1, 2)
        ]
        report.plot_learning_curves("a.png", rows)
        _, ess, temperature, _ = figures[0].axes
        dashed = [[line for line in axes.lines if line.is_dashed()] for axes in (ess, temperature)]
        assert [len(lines) for lines in dashed] == [1, 1]
        assert set(dashed[0][0].get_ydata()) == {0.33}
        assert list(dashed[1][0].get_ydata()) == [0.5, 0.25]
        assert temperature.get_yscale() == "log"
        assert ess.get_ylim()[0] == 0.0

    def test_a_key_that_is_never_logged_is_said_so(self, figures: list[Any]) -> None:
        report.plot_learning_curves("a.png", [{"step": 3, "beta_elbo": -4.0}])
        notes = [[text.get_text() for text in axes.texts] for axes in figures[0].axes]
        assert notes == [[], ["not logged"], ["not logged"], ["not logged"]]

    def test_a_log_axis_has_no_place_for_zero(self, figures: list[Any]) -> None:
        report.plot_learning_curves(
            "a.png", [{"step": i, "temperature": float(i), "temperature_floor": 0.0} for i in range(4)]
        )
        (line,) = figures[0].axes[2].lines
        assert list(line.get_ydata()) == [1.0, 2.0, 3.0]
        assert figures[0].axes[2].get_ylim()[0] > 0

    def test_missing_and_unusable_values_are_skipped(self, tmp_path: Path) -> None:
        rows: list[dict[str, Any]] = [
            {"step": 0, "beta_elbo": math.nan, "ESS": None, "temperature": 0.0, "entropy": math.inf},
            {"step": 1, "beta_elbo": -3.0, "ESS": 0.2, "temperature": -1.0},
            {"beta_elbo": -99.0},
            {"step": 2, "entropy": 1.0, "temperature_floor": 0.0},
        ]
        steps, values = learning_curves._series(rows, "beta_elbo")
        assert (steps.tolist(), values.tolist()) == ([1.0], [-3.0])
        report.plot_learning_curves(tmp_path / "a.png", rows)
        read_png(tmp_path / "a.png")

    def test_the_later_row_of_a_resumed_run_counts(self) -> None:
        rows = [{"step": 1, "ESS": 0.1}, {"step": 2, "ESS": 0.2}, {"step": 1, "ESS": 0.3}]
        steps, values = learning_curves._series(rows, "ESS")
        assert (steps.tolist(), values.tolist()) == ([1.0, 2.0], [0.3, 0.2])

    def test_smoothing_keeps_lines_and_averages_noise(self) -> None:
        line = np.arange(400.0)
        np.testing.assert_allclose(learning_curves._smooth(line)[10:-10], line[10:-10])
        noise = np.random.default_rng(0).normal(size=4000)
        smooth = learning_curves._smooth(noise)
        assert len(smooth) == 4000
        assert smooth[200:-200].std() < 0.2
        assert abs(smooth[-1]) < 1.0
        np.testing.assert_allclose(learning_curves._smooth(np.ones(1)), [1.0])

    @pytest.mark.parametrize("rows", [[], [{"beta_elbo": 1.0}], [{"step": None}]])
    def test_a_step_is_needed(self, rows: list[dict[str, Any]]) -> None:
        with pytest.raises(ValueError, match="at least one row with a 'step'"):
            report.plot_learning_curves("a.png", rows)

    def test_a_value_that_is_no_number_is_named(self) -> None:
        with pytest.raises(ValueError, match=r"rows\[1\]\['ESS'\].*got list and int"):
            report.plot_learning_curves("a.png", [{"step": 0}, {"step": 1, "ESS": [1]}])


class TestCodeUsage:
    @pytest.mark.parametrize("shape", [(1, 1), (2, 4), (40, 20), (1024, 1024)])
    def test_any_size(self, tmp_path: Path, shape: tuple[int, int]) -> None:
        counts = torch.randint(0, 50, shape, generator=torch.Generator().manual_seed(0)) + 1
        report.plot_code_usage(tmp_path / "a.png", counts, title="Title")
        height, width = read_png(tmp_path / "a.png").shape[:2]
        assert width == 1200
        assert 400 <= height <= 1350

    def test_perplexity_and_order(self, figures: list[Any]) -> None:
        counts = torch.tensor([[5, 5, 5, 5], [0, 0, 9, 0], [0, 1, 3, 0], [0, 0, 0, 0]])
        report.plot_code_usage("a.png", counts)
        heat, bars = figures[0].axes[:2]
        expected = [4.0, 1.0, 4.0 / 3.0**0.75, 0.0]  # exp(H) of (1/4, 3/4): 4 / 3^(3/4)
        np.testing.assert_allclose([bar.get_width() for bar in bars.patches], expected)
        shares = heat.images[0].get_array()
        np.testing.assert_array_equal(np.ma.getmaskarray(shares).sum(axis=1), [0, 3, 2, 4])  # grey: never used
        np.testing.assert_allclose(shares[2].filled(0.0), [0.75, 0.25, 0.0, 0.0])

    @pytest.mark.parametrize("counts", [[[4, 6, 10]], [[1, 10, 100]], [[1, 1000, 10**6]], [[5, 5, 5]]])
    def test_shares_can_be_read_off(self, figures: list[Any], counts: list[list[int]]) -> None:
        report.plot_code_usage("a.png", torch.tensor(counts))
        low, high = figures[0].axes[0].images[0].get_clim()
        bar = figures[0].axes[2]
        assert 2 <= sum(low <= tick <= high for tick in bar.get_xticks()) <= 8

    def test_labels_are_thinned(self, figures: list[Any]) -> None:
        report.plot_code_usage("a.png", torch.ones(300, 500, dtype=torch.int64))
        heat, bars = figures[0].axes[:2]
        assert 4 <= len(heat.get_xticks()) <= 20
        assert 4 <= len(heat.get_yticks()) <= 20
        assert not bars.texts

    @pytest.mark.parametrize(
        "counts", [torch.ones(4, dtype=torch.int64), torch.ones(2, 3), torch.ones(0, 3, dtype=torch.int64)]
    )
    def test_other_tensors_are_refused(self, counts: torch.Tensor) -> None:
        with pytest.raises(ValueError, match=r"counts must be integers \[T, V\]"):
            report.plot_code_usage("a.png", counts)

    @pytest.mark.parametrize("value", [-1, 0])
    def test_counts_must_count_something(self, value: int) -> None:
        with pytest.raises(ValueError, match="non-negative, and some positive"):
            report.plot_code_usage("a.png", torch.full((2, 3), value))


class TestFiles:
    def test_a_picture_replaces_the_old_one_and_leaves_nothing_else(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "a.png"
        for number in (1, 16):
            images = torch.rand(number, 1, 8, 8)
            report.plot_reconstructions(str(path), images, images, images)
        assert read_png(path).shape[1] > 1000
        assert [entry.name for entry in path.parent.iterdir()] == ["a.png"]

    def test_a_failed_drawing_keeps_the_old_picture(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        def fail(_: Any, file: Any) -> None:
            file.write(b"half a picture")
            raise RuntimeError("disk full")

        (tmp_path / "a.png").write_bytes(b"old")
        monkeypatch.setattr(FigureCanvasAgg, "print_png", fail)
        with pytest.raises(RuntimeError, match="disk full"):
            report.plot_code_usage(tmp_path / "a.png", torch.ones(2, 3, dtype=torch.int64))
        assert [entry.name for entry in tmp_path.iterdir()] == ["a.png"]
        assert (tmp_path / "a.png").read_bytes() == b"old"

    def test_pyplot_is_left_alone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it would fail
        report.plot_learning_curves(tmp_path / "a.png", make_rows(3))
        read_png(tmp_path / "a.png")


class TestReadMetrics:
    def test_rows_come_back_in_order(self, tmp_path: Path) -> None:
        rows = [{"step": 1, "elbo": -2.5}, {"step": 2, "elbo": None}]
        path = tmp_path / "metrics.jsonl"
        path.write_text("\n\n".join(json.dumps(row) for row in rows) + "\n")
        assert report.read_metrics(path) == rows

    def test_nan_is_read(self, tmp_path: Path) -> None:
        path = tmp_path / "metrics.jsonl"
        path.write_text('{"kl": NaN}')  # whole, though without its line end
        (row,) = report.read_metrics(str(path))
        assert math.isnan(row["kl"])

    def test_an_empty_file_has_no_rows(self, tmp_path: Path) -> None:
        (tmp_path / "metrics.jsonl").touch()
        assert report.read_metrics(tmp_path / "metrics.jsonl") == []

    @pytest.mark.parametrize("torn", [b'{"step": 2, "el', b'{"name": "\xce', b"{"])
    def test_a_torn_last_line_is_left_out(self, tmp_path: Path, torn: bytes) -> None:
        path = tmp_path / "metrics.jsonl"
        path.write_bytes(b'{"step": 1}\n' + torn)
        assert report.read_metrics(path) == [{"step": 1}]

    @pytest.mark.parametrize("text", ['{"step": 1}\n{"st\n{"step": 3}\n', '{"step": 1}\n{"step": 2, "el\n'])
    def test_any_other_broken_line_is_an_error(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "metrics.jsonl"
        path.write_text(text)
        with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2 is not valid JSON"):
            report.read_metrics(path)

    def test_a_line_must_be_an_object(self, tmp_path: Path) -> None:
        path = tmp_path / "metrics.jsonl"
        path.write_text("[1]\n")
        with pytest.raises(ValueError, match=r"metrics\.jsonl, line 1 must be a JSON object, got list"):
            report.read_metrics(path)
