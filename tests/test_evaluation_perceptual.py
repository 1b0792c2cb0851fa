"""daps_rl.evaluation: FID and LPIPS with small networks in the place of the pretrained ones, and their weights."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn

from daps_rl import DiscreteAutoencoder
from daps_rl.decoders import FixedGaussianLikelihood, MLPDecoder
from daps_rl.evaluation import Perceptual, evaluate
from daps_rl.evaluation.images import WEIGHTS
from daps_rl.policies import FactorizedPolicy
from daps_rl.priors import UniformPrior

N, SIDE = 24, 32


class ChannelMeans(nn.Module):
    """Features of uint8 images: the mean of each channel. [N, 3]."""

    num_features = 3

    def forward(self, images):
        assert images.dtype == torch.uint8
        return images.double().mean((2, 3))


class Distance(nn.Module):
    """Mean absolute difference of images in [-1, 1]. [N, 1, 1, 1], as LPIPS has it."""

    def forward(self, first, second):
        assert min(first.min(), second.min()) >= -1.0
        return (first - second).abs().mean((1, 2, 3), keepdim=True)


@pytest.fixture
def pair():
    torch.manual_seed(0)
    x = torch.rand(N, 3, SIDE, SIDE) * torch.rand(N, 3, 1, 1)
    return 0.8 * x + 0.1 * torch.rand(N, 3, 1, 1), x


def frechet(first, second):
    """Between Gaussians fitted to two sets of features, by scipy's matrix root."""
    mean = first.mean(0) - second.mean(0)
    a, b = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    return mean @ mean + np.trace(a + b - 2.0 * scipy.linalg.sqrtm(a @ b).real)


def test_against_scipy_and_by_hand(pair):
    """In batches, and with values in [-1, 3]."""
    metric = Perceptual(fid_weights=ChannelMeans(), lpips_weights=Distance())
    for part in zip(*(images.split(10) for images in pair), strict=True):
        metric.add(*(4.0 * images - 1.0 for images in part), (-1.0, 3.0))
    features = [(images * 255).round().double().mean((2, 3)).numpy() for images in pair]
    result = metric.result()
    assert result["fid"] == pytest.approx(frechet(*features), rel=1e-3)
    assert result["lpips"] == pytest.approx(2.0 * (pair[0] - pair[1]).abs().mean().item(), rel=1e-4)


def test_a_copy_is_at_no_distance_and_reset_forgets(pair):
    metric = Perceptual(fid_weights=ChannelMeans(), lpips_weights=Distance())
    metric.add(*pair, (0.0, 1.0))
    far = metric.result()
    metric.reset()
    metric.add(pair[1], pair[1], (0.0, 1.0))
    near = metric.result()
    assert near["fid"] == pytest.approx(0.0, abs=1e-3 * far["fid"])
    assert near["lpips"] == 0.0 < far["lpips"]


def make_model():
    shape = (3, SIDE, SIDE)
    policy = FactorizedPolicy(shape, 2, 4, embed_dim=8, num_heads=2, num_layers=1)
    decoder = MLPDecoder(2, 4, shape, likelihood=FixedGaussianLikelihood(0.1), embed_dim=4, hidden=(8,))
    return DiscreteAutoencoder(policy, decoder, UniformPrior(2, 4))


def test_evaluate_adds_what_was_asked_for(pair):
    model = make_model()
    asked = Perceptual(lpips_weights=Distance())
    first, other, again = (
        evaluate(model, images, beta=1.0, perceptual=asked, batch_size=10).metrics for images in (*pair[::-1], pair[1])
    )
    assert first == again != other  # nothing left over from before
    assert first["lpips"] > 0.0
    assert "fid" not in first
    assert "lpips" not in evaluate(model, pair[1], beta=1.0).metrics


def test_other_data_are_refused(pair):
    metric = Perceptual(lpips_weights=Distance())
    for wrong in (pair[1][:, :1], pair[1][..., :31], pair[1].flatten(1)):
        with pytest.raises(ValueError, match="colour images"):
            metric.add(wrong, wrong, (0.0, 1.0))


def test_what_is_missing_is_named_with_its_address(tmp_path):
    with pytest.raises(ValueError, match="needs weights") as told:
        Perceptual()
    assert all(address.split("https://")[1] in str(told.value) for address in WEIGHTS.values())
    for option, address in WEIGHTS.items():
        with pytest.raises(ValueError, match=f"{option}: there is no file") as told:
            Perceptual(**{option: tmp_path / "none.pth"})
        assert address in str(told.value)


class Evil:
    """Unpickled without care, it leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("option", list(WEIGHTS))
def test_nothing_but_tensors_is_read(option, tmp_path):
    torch.save({"features.0.weight": Evil(tmp_path / "trace")}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="does not hold the weights"):
        Perceptual(**{option: tmp_path / "weights.pth"})
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(("option", "library"), [("fid_weights", "torch_fidelity"), ("lpips_weights", "torchvision")])
def test_without_the_extra_it_is_named(option, library, tmp_path):
    import importlib.util

    if importlib.util.find_spec(library):
        pytest.skip(f"{library} is installed")
    torch.save({}, tmp_path / "weights.pth")
    with pytest.raises(ImportError, match=r"daps-rl\[perceptual\]"):
        Perceptual(**{option: tmp_path / "weights.pth"})


def test_lpips_from_a_file_is_torchmetrics_own(pair, tmp_path):
    """A random backbone's weights, through a file, against the same backbone put in by hand."""
    torchvision = pytest.importorskip("torchvision")
    from torchmetrics.functional.image.lpips import _LPIPS

    torch.manual_seed(0)
    alexnet = torchvision.models.alexnet(weights=None)
    torch.save(alexnet.state_dict(), tmp_path / "alexnet.pth")
    reference = _LPIPS(pretrained=True, net="alex", pnet_rand=True)
    layers = [layer for part in range(1, 6) for layer in getattr(reference.net, f"slice{part}")]
    for layer, source in zip(layers, alexnet.features, strict=False):
        layer.load_state_dict(source.state_dict())
    images = [torch.nn.functional.interpolate(image, 64) for image in pair]
    metric = Perceptual(lpips_weights=tmp_path / "alexnet.pth")
    metric.add(*images, (0.0, 1.0))
    with torch.no_grad():
        expected = reference(*images, normalize=True).mean().item()
    assert metric.result()["lpips"] == pytest.approx(expected, rel=1e-5)
    assert expected > 0.0


def test_the_command_asks_for_weights_in_one_line(tmp_path, capsys):
    from daps_rl.cli import main

    assert main(["evaluate", str(tmp_path), "--fid-weights", str(tmp_path / "none.pth")]) == 2
    assert "fid_weights: there is no file" in capsys.readouterr().err


class Small(Perceptual):
    """With small networks, whatever the files."""

    def __init__(self, *, fid_weights, lpips_weights):
        super().__init__(fid_weights=ChannelMeans(), lpips_weights=Distance())


def colour_data(tmp_path):
    path = tmp_path / "colours.npy"
    np.save(path, np.random.default_rng(0).random((40, 3, SIDE, SIDE)).astype(np.float32))
    return path


def test_a_run_that_has_weights_has_both_in_its_summary(tmp_path, monkeypatch, capsys):
    import json

    from daps_rl.cli import main

    monkeypatch.setattr("daps_rl.runs.session.Perceptual", Small)
    run = tmp_path / "run"
    size = ["--num-tokens", "2", "--vocab-size", "4", "--embed-dim", "8", "--decoder", "mlp", "--batch-size", "8"]
    weights = ["--fid-weights", str(tmp_path / "one"), "--lpips-weights", str(tmp_path / "other")]
    command = ["train", "--data", str(colour_data(tmp_path)), "--steps", "1", *size, *weights, "--out", str(run)]
    assert main(command) == 0
    test = json.loads((run / "summary.json").read_text())["test"]
    assert test["fid"] >= 0.0
    assert 0.0 < test["lpips"] < 2.0
    capsys.readouterr()
    assert main(["evaluate", str(run)]) == 0
    assert json.loads(capsys.readouterr().out)["test"]["lpips"] == pytest.approx(test["lpips"])


def test_weights_are_looked_at_before_training(tmp_path, capsys):
    from daps_rl.cli import main

    command = ["train", "--steps", "1", "--fid-weights", str(tmp_path / "none.pth")]
    assert main([*command, "--out", str(tmp_path / "a")]) == 2
    assert "colour images" in capsys.readouterr().err
    assert main([*command, "--data", str(colour_data(tmp_path)), "--out", str(tmp_path / "b")]) == 2
    assert "there is no file" in capsys.readouterr().err
