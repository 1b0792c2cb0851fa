"""Strokes: what is drawn, against a drawing pixel by pixel; what refuses to learn through it, and what does learn."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from daps_rl.autoencoder import DiscreteAutoencoder
from daps_rl.config import make_config
from daps_rl.data import load
from daps_rl.decoders import BernoulliLikelihood, FixedGaussianLikelihood, StrokeDecoder, StrokeRenderer
from daps_rl.policies import LatticeHead
from daps_rl.training import Trainer

PEN = 1.2


def draw_slowly(code: torch.Tensor, vocab_size: int, height: int, width: int) -> torch.Tensor:
    """One program, pixel by pixel, in float64."""
    picture = torch.ones(height, width, dtype=torch.float64)
    for stroke in (code.double() / (vocab_size - 1)).view(-1, 7):
        x0, y0, x1, y1, x2, y2 = (
            (value * 1.2 - 0.1) * size for value, size in zip(stroke[:6].tolist(), (width, height) * 3, strict=True)
        )
        curve = [
            tuple((1 - t) ** 2 * a + 2 * t * (1 - t) * b + t * t * c for a, b, c in ((x0, x1, x2), (y0, y1, y2)))
            for t in (i / 6 for i in range(7))
        ]
        for row in range(height):
            for column in range(width):
                x, y, nearest = column + 0.5, row + 0.5, math.inf
                for (ax, ay), (bx, by) in itertools.pairwise(curve):
                    length = max((bx - ax) ** 2 + (by - ay) ** 2, 1e-8)
                    s = min(max(((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length, 0.0), 1.0)
                    nearest = min(nearest, math.hypot(ax + s * (bx - ax) - x, ay + s * (by - ay) - y))
                cover = min(max(0.5 * PEN + 0.5 - nearest, 0.0), 1.0)
                picture[row, column] *= 1 - stroke[6].item() * cover
    return 1 - picture


@pytest.mark.parametrize(("height", "width", "strokes"), [(8, 8, 3), (5, 9, 1)])
def test_pictures_are_those_drawn_pixel_by_pixel(height, width, strokes):
    codes = torch.randint(16, (2, 3, 7 * strokes), generator=torch.Generator().manual_seed(0))
    pictures = StrokeRenderer(16, (height, width), PEN)(codes)
    assert pictures.shape == (2, 3, 1, height, width)
    assert not pictures.requires_grad
    for code, picture in zip(codes.flatten(0, 1), pictures.flatten(0, 1), strict=True):
        expected = draw_slowly(code, 16, height, width)
        torch.testing.assert_close(picture[0].double(), expected, rtol=0.0, atol=1e-5)


def test_a_part_at_a_time_and_in_low_precision_the_picture_is_the_same(monkeypatch):
    codes = torch.randint(16, (40, 21), generator=torch.Generator().manual_seed(0))
    render = StrokeRenderer(16, (8, 8))
    whole = render(codes)
    monkeypatch.setattr("daps_rl.decoders.strokes.DISTANCES_AT_A_TIME", 5000)
    torch.testing.assert_close(render(codes), whole)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(render(codes), whole)


def test_stages_add_a_stroke_each_and_no_ink_draws_nothing():
    decoder = StrokeDecoder(21, 16, (1, 8, 8))
    codes = torch.randint(1, 16, (5, 21), generator=torch.Generator().manual_seed(0))
    first, second, third = decoder.stages(codes)
    torch.testing.assert_close(third, decoder(codes).mean)
    torch.testing.assert_close(first, StrokeRenderer(16, (8, 8))(codes[:, :7]))
    assert (second >= first - 1e-6).all()
    assert (third >= second - 1e-6).all()
    codes[:, 6::7] = 0
    assert not decoder(codes).mean.any()


def test_the_likelihood_is_squared_error():
    decoder = StrokeDecoder(7, 16, (1, 8, 8), likelihood=FixedGaussianLikelihood(0.1))
    codes, x = torch.randint(16, (4, 3, 7)), torch.rand(4, 1, 8, 8)
    error = (decoder(codes).mean - x[:, None]).square().sum((-3, -2, -1))
    expected = -0.5 * error / 0.1 - 32 * math.log(2 * math.pi * 0.1)
    torch.testing.assert_close(decoder(codes).log_prob(x[:, None]), expected)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="multiple of 7"):
        StrokeDecoder(8, 16, (1, 8, 8))
    with pytest.raises(ValueError, match=r"shape \(1, H, W\)"):
        StrokeDecoder(7, 16, (3, 8, 8))
    with pytest.raises(ValueError, match="squared error"):
        StrokeDecoder(7, 16, (1, 8, 8), likelihood=BernoulliLikelihood())
    with pytest.raises(ValueError, match="pen must be positive"):
        StrokeRenderer(16, (8, 8), 0.0)
    with pytest.raises(ValueError, match="cannot train this one"):
        StrokeDecoder(7, 16, (1, 8, 8))(torch.rand(3, 7, 2))
    splits = load("digits")
    for agent in ("gumbel-na", "gr-mck", "reinmax"):
        trainer = Trainer(make_config(agent=agent, decoder="strokes", num_tokens=7, steps=1), splits)
        with pytest.raises(ValueError, match="sends gradients through the decoder"):
            trainer.train_step()


@pytest.mark.parametrize("agent", ["daps", "ppo", "reinforce", "sb3:daps", "sb3:ppo"])
def test_agents_that_learn_from_rewards_take_a_decoder_without_weights(agent):
    config = make_config(agent=agent, decoder="strokes", num_tokens=7, steps=2, batch_size=8, validate_every=0)
    trainer = Trainer(config, load("digits"))
    before = [parameter.clone() for parameter in trainer.autoencoder.policy.parameters()]
    rows = list(trainer.run())
    assert rows[-1]["skipped"] == 0
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.autoencoder.policy.parameters(), strict=True))


def test_daps_learns_to_draw_and_the_model_comes_back(tmp_path):
    splits = load("digits")
    config = make_config(
        agent="daps-na", decoder="strokes", num_tokens=14, steps=150, learning_rate=4e-3, validate_every=0
    )
    trainer = Trainer(config, splits)
    assert isinstance(trainer.autoencoder.policy.head, LatticeHead)
    before = trainer.validate()
    list(trainer.run())
    after = trainer.validate()
    assert after["log_likelihood"] > before["log_likelihood"] + 40.0
    blank = FixedGaussianLikelihood(0.02)(torch.zeros(1, 1, 8, 8), 3).log_prob(splits.validation).mean()
    assert after["log_likelihood"] > blank + 20.0
    trainer.autoencoder.save_pretrained(tmp_path)
    again = DiscreteAutoencoder.from_pretrained(tmp_path)
    codes = again.encode(splits.test[:5], deterministic=True)
    torch.testing.assert_close(again.decode(codes), trainer.autoencoder.eval().decode(codes))
