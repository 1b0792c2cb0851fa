"""Small data, decoders and environments for the tests of daps_rl/Encoding-v0, and its reward by hand."""

import numpy as np
from conftest import binary_data, small_decoder

from daps_rl.decoders import MLPDecoder
from daps_rl.envs import EncodingVectorEnv

ID = "daps_rl/Encoding-v0"
N, B, K, T, V = 11, 3, 4, 2, 5
SHAPE = (1, 3, 2)


def make_data(*shape):
    return binary_data(N, *(shape or SHAPE))


def make_decoder(shape=SHAPE, kind=MLPDecoder):
    return small_decoder(T, V, shape, kind)


def make_vector(**changes):
    arguments = {"data": make_data(), "decoder": make_decoder(), "num_envs": B * K}
    return EncodingVectorEnv(**(arguments | changes))


def expected_log_likelihood(decoder, x, codes):
    """By numpy in float64: embed, two dense layers, Bernoulli."""
    weights = {name: p.detach().double().numpy() for name, p in decoder.named_parameters()}
    hidden = weights["embed.weight"][codes].reshape(len(codes), -1)
    hidden = np.maximum(hidden @ weights["layers.0.weight"].T + weights["layers.0.bias"], 0.0)
    logits = hidden @ weights["layers.2.weight"].T + weights["layers.2.bias"]
    x = x.reshape(len(x), -1).astype(np.float64)
    return (x * logits - np.logaddexp(0.0, logits)).sum(-1)


def ones_minus_codes(x, codes):
    return x.flatten(2).sum(-1) - codes.sum(-1)
