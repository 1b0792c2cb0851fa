"""Settings by the data set that they are for: published ones, and our own."""

from __future__ import annotations

from typing import Any

PUBLISHED: dict[str, dict[str, Any]] = {
    "mnist": {
        "data": "mnist", "num_tokens": 8, "vocab_size": 256, "embed_dim": 64, "num_layers": 1, "num_code_layers": 1,
        "likelihood": "bernoulli", "beta_start": 0.5, "decoder_embed_dim": 64,
    },
    "cifar10": {
        "data": "cifar10", "num_tokens": 64, "vocab_size": 512, "likelihood": "gaussian", "decoder": "resnet",
        "decoder_norm": "batch", "beta_start": 6.0,
    },
    "imagenet256": {
        "num_tokens": 1024, "vocab_size": 1024, "likelihood": "gaussian", "min_variance": 0.01, "decoder": "resnet",
        "decoder_norm": "batch", "ess_fraction": 0.25, "beta_start": 50.0, "beta_end": 1.0, "batch_size": 64,
        "steps": 300_000, "image_size": 256,
    },
    "motion": {
        "num_tokens": 64, "vocab_size": 1024, "likelihood": "fixed_gaussian", "variance": 0.25, "decoder": "sequence",
        "beta_start": 3.0,
    },
}  # fmt: skip
"""Published settings (arXiv 2509.24716, appendix), by the data set they are for: options of `TrainConfig`. Those of
ImageNet and of motion name no data: they are yours to bring."""

PUBLISHED_FOR_ALL: dict[str, Any] = {
    "batch_size": 256, "steps": 250_000, "embed_dim": 128, "num_layers": 2, "num_code_layers": 2,
    "ess_fraction": 0.33, "beta_end": 0.01,
    "samples": 8, "learning_rate": 3e-4, "learning_rate_schedule": "constant", "weight_decay": 1e-4,
    "gradient_clip": "adaptive", "clip_at": 1.0, "trust_region": "ess", "centered": False, "mlp_ratio": 4.0,
    "decoder_hidden": (64, 256), "decoder_embed_dim": 128, "aligned_patches": False,
    "token_vectors": "separate", "decoder_samples": 0, "policy_samples": 0,
}  # fmt: skip
"""What these do not say."""

PUBLISHED_SHAPES: dict[str, tuple[int, ...]] = {
    "mnist": (1, 28, 28), "cifar10": (3, 32, 32), "imagenet256": (3, 256, 256), "motion": (64, 128),
}  # fmt: skip
"""Of a datum."""

SMALL_TABLE: dict[str, Any] = {
    "num_tokens": 4, "vocab_size": 16, "batch_size": 64, "minutes": 0.75, "embed_dim": 32, "num_layers": 1,
    "decoder_hidden": (64,), "decoder_embed_dim": 16, "min_variance": 0.1, "validate_every": 100,
}  # fmt: skip
"""Of a few hundred rows, which larger networks, and smaller variances, learn by heart."""

SPOKEN_DIGITS: dict[str, Any] = {
    "agent": "daps-na", "num_tokens": 4, "vocab_size": 16, "batch_size": 64, "minutes": 3.0, "variance": 0.3,
    "decoder_hidden": (64, 256),
}  # fmt: skip
"""Our settings for spoken digits: 16 bits a clip; of 8 bits a recogniser reads several per cent less after as long."""

TEXT: dict[str, Any] = {"agent": "daps-na", "batch_size": 64, "minutes": 4.0, "beta_start": 0.05}
"""Of windows of 16 symbols; with other β and batches learning may not begin."""

RECIPES: dict[str, dict[str, Any]] = {
    "digits": {
        "num_tokens": 8, "vocab_size": 16, "batch_size": 64, "minutes": 1.5, "likelihood": "fixed_gaussian",
        "variance": 0.02, "decoder_hidden": (64, 256), "beta_start": 0.05,
    },
    "spoken-digits": SPOKEN_DIGITS,
    "spoken-digits-babble": SPOKEN_DIGITS,
    "spoken-and-written": {**SPOKEN_DIGITS, "token_vectors": "separate"},
    "handwriting": {
        "agent": "daps-na", "num_tokens": 32, "vocab_size": 64, "batch_size": 128, "minutes": 4.5, "variance": 0.02,
        "beta_start": 0.05,
    },
    "text": TEXT,
    **dict.fromkeys(("breast-cancer", "iris", "diabetes", "penguins"), SMALL_TABLE),
    "wine": {**SMALL_TABLE, "min_variance": 0.3},  # of 142 rows it learns smaller ones by heart
}  # fmt: skip
"""Our own settings by the name of a data set: options of `TrainConfig` that differ from its defaults."""

OTHER_DATA: dict[str, Any] = {"agent": "daps-na", "minutes": 10.0}
"""The recipe for all other data: the factorised policy, whose steps are several times cheaper (docs/results.md)."""

FEW_ROWS = 1000
KIND_RECIPES: dict[str, dict[str, Any]] = {
    "text": TEXT,
    "sound": {**SPOKEN_DIGITS, "num_tokens": 8},
    "small table": SMALL_TABLE,
    "table": {**OTHER_DATA, "min_variance": 0.1},
}
"""Our own settings for files and folders of one's own, by the kind of data in them; a table of at most `FEW_ROWS` rows
is a small one. Of a larger one the smallest variance keeps numbers that are nearly always the same from taking all
bits."""
