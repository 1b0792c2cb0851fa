"""Agents that learn through the decoder's gradient: what they learn from, and that they learn."""

import pytest
import torch
from torch import nn

from daps_rl import DiscreteAutoencoder
from daps_rl.agents import AGENTS, Conditions, GumbelSoftmax, Scorer
from daps_rl.config import make_config
from daps_rl.policies import Codebook, PointCodes, QuantizerPolicy
from daps_rl.policies.latents import fsq_levels
from daps_rl.training import Trainer

PATHWISE = [name for name, spec in AGENTS.items() if spec.cls.needs_decoder_gradient]


def make_trainer(digits, agent, **options):
    return Trainer(
        make_config(agent=agent, validate_every=0, **{"steps": 60, "batch_size": 64, "warmup_steps": 10, **options}),
        digits,
    )


@pytest.mark.parametrize("agent", PATHWISE)
def test_learns_digits_through_its_codes(digits, agent):
    trainer = make_trainer(digits, agent, steps=150, learning_rate=2e-3)
    rows = list(trainer.run())
    assert rows[-1]["log_likelihood"] > rows[0]["log_likelihood"] + 10
    assert rows[-1]["decoder_evaluations"] == 150 * 64
    assert rows[-1]["skipped"] == 0
    assert ("beta_elbo" in rows[-1]) is (trainer.config.policy not in ("vq", "fsq"))
    model, x = trainer.autoencoder.eval(), digits.test[:200]
    z = model.encode(x)
    own, others = model.log_likelihood(x, z).mean(), model.log_likelihood(x, z.roll(1, 0)).mean()
    assert own > others + 1.0  # the codes say which datum it is


@pytest.mark.parametrize("agent", PATHWISE)
def test_the_loss_is_the_negative_beta_elbo_and_reaches_encoder_and_decoder(digits, agent):
    trainer = make_trainer(digits, agent)
    model, x, beta = trainer.autoencoder, digits.train[:16], torch.tensor(0.3)
    for _ in range(3):  # k-means takes the first batch
        trainer.train_step()
    scorer = Scorer(model.decoder, model.prior(), x, beta)
    (out,) = trainer.agent.losses(x, scorer, beta)
    if trainer.agent.has_kl:
        kl = scorer.kl.mean()
        assert kl > 0
        torch.testing.assert_close(out.loss, beta * kl - scorer.log_likelihood.mean())
    model.zero_grad()
    out.loss.backward()
    for part in (model.policy, model.decoder):
        assert sum(p.grad.abs().sum().item() for p in part.parameters() if p.grad is not None) > 0
    assert scorer.pathwise
    assert scorer.evaluations == 16


@pytest.mark.parametrize("agent", ["gumbel-na", "vq", "fsq", "gaussian"])
def test_resumes_to_the_same_weights(digits, agent):
    whole = make_trainer(digits, agent, steps=12)
    list(whole.run())
    first, stopping = make_trainer(digits, agent, steps=12), iter(range(100))
    list(first.run(lambda: next(stopping) >= 10))
    assert 0 < first.step < 12
    state = first.state()
    second = make_trainer(digits, agent, steps=12)
    second.load_state(*state)
    list(second.run())
    resumed = second.autoencoder.state_dict()
    for name, value in whole.autoencoder.state_dict().items():
        assert torch.equal(value, resumed[name]), name


@pytest.mark.parametrize("agent", ["vq", "fsq", "gaussian", "gumbel-na"])
def test_saved_models_encode_alike(digits, agent, tmp_path):
    trainer = make_trainer(digits, agent, steps=5)
    list(trainer.run())
    model = trainer.autoencoder.eval()
    model.save_pretrained(tmp_path)
    again = DiscreteAutoencoder.from_pretrained(tmp_path)
    x = digits.test[:20]
    z = model.encode(x, deterministic=True)
    assert torch.equal(again.encode(x, deterministic=True), z)
    assert torch.equal(again.decode(z), model.decode(z))


def test_the_temperature_falls_from_its_start_to_its_end(digits):
    trainer = make_trainer(digits, "gumbel-na", agent_options={"temperature_start": 2.0, "temperature_end": 0.5})
    for progress, temperature in ((0.0, 2.0), (0.5, 1.0), (1.0, 0.5)):
        trainer.agent.prepare(Conditions(progress=progress, learning_rate=1e-3))
        assert trainer.agent.temperature.item() == pytest.approx(temperature)
    with pytest.raises(ValueError, match="temperatures must be positive"):
        make_trainer(digits, "gumbel-na", agent_options={"temperature_end": 0.0})


def test_microbatches_leave_the_gradient_of_a_relaxation_as_it_is(digits):
    class Deterministic(GumbelSoftmax):
        def relax(self, logits):
            return torch.softmax(logits, -1)

    def gradients(microbatch):
        trainer = make_trainer(digits, "gumbel-na", gradient_clip="none", microbatch=microbatch)
        trainer.agent.__class__ = Deterministic
        trainer.train_step()
        return [p.grad for p in trainer.optimizer.parameters]

    for one, other in zip(gradients(0), gradients(5), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


class TestCodebook:
    @pytest.mark.parametrize(("kind", "size"), [("vq", 16), ("fsq", 16), ("fsq", 256)])
    def test_reads_back_what_it_wrote(self, kind, size):
        torch.manual_seed(0)
        codebook = Codebook(kind, size, 6).eval()
        features = torch.randn(5, 4, 6)
        embedded, codes, _ = codebook.quantize(features)
        assert codes.dtype == torch.int64
        assert codes.shape == (5, 4)
        assert 0 <= codes.min() <= codes.max() < size
        torch.testing.assert_close(codebook(codes), embedded)
        assert codebook(codes.unsqueeze(1).expand(-1, 3, -1)).shape == (5, 3, 4, 6)

    def test_takes_the_nearest_vector(self):
        torch.manual_seed(0)
        codebook = Codebook("vq", 16, 6).eval()
        features, table = torch.randn(5, 4, 6), codebook(torch.arange(16))
        assert torch.equal(codebook.quantize(features).codes, torch.cdist(features, table).argmin(-1))

    def test_is_the_decoders_and_saved_once(self, digits):
        model = make_trainer(digits, "vq").autoencoder
        assert isinstance(model.decoder.embed, Codebook)
        assert not any("codebook" in name for name in model.policy.state_dict())
        ids = [id(p) for p in (*model.policy.parameters(), *model.decoder.parameters())]
        assert len(ids) == len(set(ids))

    @pytest.mark.parametrize(
        ("size", "levels"),
        [(256, (8, 6, 5)), (16, (4, 4)), (4, (4,)), (512, (8, 8, 8)), (9, (3, 3)), (4096, (8, 8, 8, 8))],
    )
    def test_levels_suit_the_vocabulary(self, size, levels):
        assert fsq_levels(size) == levels

    def test_levels_can_be_given(self):
        assert Codebook("fsq", 100, 6, {"levels": (5, 5)}).quantize(torch.randn(9, 9, 6)).codes.max() < 25

    def test_levels_for_more_codes_than_v_are_not_taken(self):
        with pytest.warns(UserWarning, match=r"levels \[8, 8, 8\] of FSQ make 512 codes, more than vocab_size, 256"):
            codebook = Codebook("fsq", 256, 6, {"levels": (8, 8, 8)})
        assert codebook.size == 8 * 6 * 5
        assert codebook.quantize(9 * torch.randn(99, 9, 6)).codes.max() < 256

    def test_a_vocabulary_of_two_has_no_levels(self):
        with pytest.raises(ValueError, match="vocab_size >= 3"):
            Codebook("fsq", 2, 6)

    def test_a_missing_library_is_named(self, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "vector_quantize_pytorch", None)
        with pytest.raises(ImportError, match=r"daps-rl\[quantizers\]"):
            Codebook("vq", 16, 6)


def test_point_codes_have_no_density():
    codes = PointCodes(torch.arange(6).view(2, 3))
    assert codes.sample((4,)).shape == (4, 2, 3)
    assert codes.entropy().tolist() == [0.0, 0.0]
    with pytest.raises(NotImplementedError, match="not defined"):
        codes.log_prob(codes.mode)


class TestErrors:
    def test_rewards_alone_are_not_enough(self, digits):
        agent = make_trainer(digits, "gumbel-na").agent
        with pytest.raises(ValueError, match="rewards alone"):
            next(agent.losses(digits.train[:4], lambda codes, log_prob: log_prob, torch.tensor(0.0)))

    def test_a_decoder_without_a_table_is_named(self, digits):
        trainer = make_trainer(digits, "gumbel-na")
        trainer.autoencoder.decoder.embed = nn.Identity()
        with pytest.raises(ValueError, match=r"no nn\.Embedding"):
            trainer.train_step()

    def test_a_quantizer_needs_its_policy(self, digits):
        with pytest.raises(ValueError, match="needs a QuantizerPolicy"):
            make_trainer(digits, "vq", policy="factorized")

    def test_a_decoder_without_a_codebook_is_named(self, digits):
        config = make_config(agent="vq", steps=1)
        with pytest.raises(ValueError, match="has none"):
            Trainer(config, digits, decoder=nn.Linear(2, 2))

    def test_no_density_no_policy_gradient(self, digits):
        policy = make_trainer(digits, "vq").autoencoder.policy
        assert isinstance(policy, QuantizerPolicy)
        with pytest.raises(ValueError, match="cannot keep to microbatch"):
            make_trainer(digits, "vq", microbatch=4)
