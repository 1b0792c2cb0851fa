"""A decoder that nobody can differentiate and that learns nothing: tokens are a program of pen strokes, drawn."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from daps_rl.decoders.likelihoods import FixedGaussianLikelihood, Likelihood
from daps_rl.functional.checks import check_code_sizes
from daps_rl.policies.lattice import LatticeEmbedding

TOKENS_PER_STROKE = 7  # the x and y of start, bend and end, and the ink
SEGMENTS = 6  # straight pieces that a curve is drawn as
DISTANCES_AT_A_TIME = 2**24  # pixels times segments: what drawing holds in memory at most


class StrokeRenderer(nn.Module):
    """Draws programs of strokes: integers [..., 7·S] → pictures [..., 1, H, W] in [0, 1], without a gradient.

    A stroke is a quadratic Bézier curve. Of its seven tokens six are the x and y of start, control point and end, in V
    even steps over the picture and a tenth beyond each edge; the last is its ink, from none to black in V even steps.
    Strokes add up as transparent ink does. The pen is round, with an edge one pixel wide; its diameter, in pixels, is a
    twelfth of the picture's side, and at least 1.2, if None.
    """

    def __init__(self, vocab_size: int, image_shape: tuple[int, ...], pen: float | None = None) -> None:
        super().__init__()
        self.vocab_size, self.image_shape = vocab_size, image_shape
        height, width = image_shape
        self.pen = max(1.2, min(image_shape) / 12) if pen is None else pen
        if not self.pen > 0.0:
            raise ValueError(f"pen must be positive, got {pen}; it is a diameter in pixels.")
        rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        # [H·W, 2], x and y of their centres.
        self.pixels = nn.Buffer(torch.stack((columns, rows), -1).view(-1, 2), persistent=False)
        self.sizes = nn.Buffer(torch.tensor([float(width), float(height)]), persistent=False)
        t = torch.linspace(0.0, 1.0, SEGMENTS + 1)
        # [SEGMENTS + 1, 3], weights of start, control point and end.
        self.bernstein = nn.Buffer(torch.stack(((1 - t) ** 2, 2 * t * (1 - t), t**2), -1), persistent=False)

    @torch.no_grad()
    def forward(self, codes: Tensor) -> Tensor:
        flat = codes.reshape(-1, codes.shape[-1])
        at_a_time = max(1, DISTANCES_AT_A_TIME // (flat.shape[1] // TOKENS_PER_STROKE * SEGMENTS * len(self.pixels)))
        with torch.autocast(codes.device.type, enabled=False):
            pictures = torch.cat([self._draw(part) for part in flat.split(at_a_time)])
        return pictures.view(*codes.shape[:-1], 1, *self.image_shape)

    def strokes(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Control points [..., S, 3, 2] in pixels, and inks [..., S] in [0, 1]."""
        unit = codes.unflatten(-1, (-1, TOKENS_PER_STROKE)) / (self.vocab_size - 1)  # [..., S, 7]
        points = unit[..., :-1].unflatten(-1, (3, 2))
        return (points * 1.2 - 0.1) * self.sizes, unit[..., -1]

    def _draw(self, codes: Tensor) -> Tensor:
        points, ink = self.strokes(codes)  # [N, S, 3, 2], [N, S]
        curve = self.bernstein @ points  # [N, S, SEGMENTS + 1, 2]
        start, step = curve[..., :-1, :], curve.diff(dim=-2)  # [N, S, SEGMENTS, 2]
        length = step.square().sum(-1, keepdim=True).clamp_min(1e-8)
        # Along and across each segment, by products with all pixels at once: [N, S, SEGMENTS, H·W].
        along = (step @ self.pixels.T - (step * start).sum(-1, keepdim=True)).div_(length).clamp_(0.0, 1.0)
        nearest = start.unsqueeze(-2) + along.unsqueeze(-1) * step.unsqueeze(-2)
        distance = (nearest - self.pixels).square_().sum(-1).amin(-2).sqrt_()  # [N, S, H·W]
        cover = (0.5 * self.pen + 0.5 - distance).clamp_(0.0, 1.0).mul_(ink.unsqueeze(-1))
        return 1.0 - (1.0 - cover).prod(-2)


class StrokeDecoder(nn.Module):
    """p(x|z) around the picture that a program of strokes draws: codes [..., 7·S] → a distribution, batch shape [...].

    It has no weights. Quantisers and relaxations cannot learn through it; agents that learn from rewards can.

    Args:
        num_tokens, vocab_size: T, seven for each stroke, and V, steps of a coordinate.
        observation_shape: (1, H, W), with values from 0 (paper) to 1 (ink).
        likelihood: a Gaussian of variance 0.02 if None. One with an output per entry, its mean.
        pen: see `StrokeRenderer`.
    Raises:
        ValueError: the sizes do not fit, or the likelihood is another.
    """

    def __init__(
        self,
        num_tokens: int,
        vocab_size: int,
        observation_shape: tuple[int, ...],
        *,
        likelihood: Likelihood | None = None,
        pen: float | None = None,
    ) -> None:
        super().__init__()
        check_code_sizes(num_tokens, vocab_size)
        if num_tokens % TOKENS_PER_STROKE:
            raise ValueError(
                f"num_tokens must be a multiple of {TOKENS_PER_STROKE} (six coordinates and the ink of each stroke), "
                f"got {num_tokens}; pass 21 for three strokes."
            )
        if len(observation_shape) != 3 or observation_shape[0] != 1:
            raise ValueError(f"strokes draw pictures of shape (1, H, W), got {tuple(observation_shape)}.")
        self.likelihood = likelihood or FixedGaussianLikelihood(0.02)
        if not isinstance(self.likelihood, FixedGaussianLikelihood):
            raise ValueError(
                f"a drawing is scored by squared error, got a {type(self.likelihood).__name__}; pass "
                "--likelihood fixed_gaussian."
            )
        self.num_tokens, self.vocab_size = num_tokens, vocab_size
        self.observation_shape = tuple(observation_shape)
        self.render = StrokeRenderer(vocab_size, observation_shape[1:], pen)

    def forward(self, codes: Tensor) -> Distribution:
        if torch.is_floating_point(codes) or codes.shape[-1] != self.num_tokens:
            raise ValueError(
                f"a program of strokes is integers [..., {self.num_tokens}], got {codes.dtype} of shape "
                f"{tuple(codes.shape)}; agents that send gradients through the decoder cannot train this one."
            )
        return self.likelihood(self.render(codes).unsqueeze(-4), 3)

    def token_lattice(self) -> LatticeEmbedding:
        """The tokens on a line, for a policy that is to know that neighbouring tokens draw alike."""
        return LatticeEmbedding(self.vocab_size, 1, (self.vocab_size,))

    def stages(self, codes: Tensor) -> list[Tensor]:
        """The picture after each stroke, the last one whole. [..., T] → S pictures [..., 1, H, W]."""
        programs = codes.unflatten(-1, (-1, TOKENS_PER_STROKE))
        pictures = []
        for count in range(1, programs.shape[-2] + 1):
            begun = programs.clone()
            begun[..., count:, -1] = 0  # no ink
            pictures.append(self.render(begun.flatten(-2)))
        return pictures
