"""Fitting drafting heads to the predictions of a frozen network."""

import numpy as np
import pytest
import torch

from charladder.errors import UserError
from charladder.generation.speculative.drafting_heads import DraftingHeads
from charladder.generation.speculative.fitting import FitConfig, fit, head_losses
from charladder.text import Windows
from generation.drafting import random_network


def test_heads_learn_and_the_network_does_not_change():
    network = random_network(8, 0.3)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    heads = DraftingHeads(32, 8, 32, (2,), (1, 2)).initialise_from(network)
    windows = Windows(np.random.default_rng(0).integers(0, 8, 4000), (0, 4000), 16, 3, 0)
    steps = list(fit(network, heads, windows, FitConfig(steps=150, ahead=3, rate=0.01), torch.float32))
    assert [step.step for step in steps] == list(range(1, 151))
    first, last = steps[0].bits, steps[-1].bits
    assert set(first) == {"chain1", "chain2", "chain3", "target2", "layer1", "layer2"}
    for name in first:
        assert last[name] < first[name] - 0.05, name
    # The network's entropy is the lower bound of the loss.
    with torch.no_grad():
        ids_BT = torch.from_numpy(windows.take(64)[0])
        p_BTV = network(ids_BT[:, :16]).logits_BTV.softmax(-1)
        entropy = float(-(p_BTV * p_BTV.log2()).sum(-1).mean())
    assert last["chain1"] > entropy - 0.1
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_alignment_of_chain_targets():
    network = random_network(8, 0.5)
    ids_BT = torch.randint(0, 8, (4, 19), generator=torch.Generator().manual_seed(0))
    heads = DraftingHeads(32, 8, 32, (), (2,)).initialise_from(network)
    losses = head_losses(network, heads, ids_BT, 2)
    with torch.no_grad():
        output = network(ids_BT[:, :16], output_hidden={2, 3})
        p_BTV = output.logits_BTV.softmax(-1)
        state = output.hidden[3]
        # The chain reads character t + 1 after state t; its target is the network's prediction at t + 1.
        _, logits = heads.chain(state[:, :15], ids_BT[:, 1:16])
        expected = -(p_BTV[:, 1:] * logits.log_softmax(-1)).sum(-1).mean()
    assert float(losses["chain1"].detach()) == pytest.approx(float(expected), rel=1e-5)


def test_invalid_settings_and_time_budget():
    for fields in ({}, {"steps": 1, "seconds": 1.0}, {"steps": 1, "batch": 0}, {"steps": 1, "rate": float("nan")}):
        with pytest.raises(UserError):
            FitConfig(**fields)
    network = random_network(8)
    heads = DraftingHeads(32, 8, 32).initialise_from(network)
    windows = Windows(np.random.default_rng(0).integers(0, 8, 400), (0, 400), 16, 5, 0)
    steps = list(fit(network, heads, windows, FitConfig(seconds=0.3), torch.float32))
    assert steps[-1].progress == 1.0
    assert steps[-1].seconds >= 0.3
