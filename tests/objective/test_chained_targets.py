"""Chained targets (DeepSeek-V3 2024, section 2.2) against the formula written out by hand, and in training."""

import pytest
import torch
import torch.nn.functional as F

from charladder.errors import UserError
from charladder.kernels import accelerate
from charladder.model import Dropout, Transformer
from charladder.objective import LanguageModelObjective, ObjectiveConfig, language_model
from charladder.objective.chained_targets import chained_logits
from charladder.training import load_newest, train
from charladder.training.optimizers import named_parameters
from helpers import make_trainer, small

CHAINED = {"targets": 3, "target_heads": "chained"}


def pair(objective: ObjectiveConfig, **model) -> tuple[Transformer, LanguageModelObjective]:
    """In float64, and with no weight at 0."""
    settings = small(**model)
    network, heads = Transformer(settings, 256).double(), LanguageModelObjective(objective, settings, 256).double()
    with torch.no_grad():
        for place, parameter in enumerate([*network.parameters(), *heads.parameters()]):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(place), dtype=torch.float64)
            parameter.add_(0.05 * noise)
    return network, heads


def windows() -> torch.Tensor:
    return torch.randint(0, 256, (2, 19), generator=torch.Generator().manual_seed(9))


def rms_norm(x: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    return gain * x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def logits_by_hand(network: Transformer, objective: LanguageModelObjective, x: torch.Tensor) -> dict[int, torch.Tensor]:
    """The logits of the targets 1 to 3 at the 16 positions of the windows."""
    state = network(x[:, :16], output_hidden={3}).hidden[3]
    logits = {1: network.output(state)}
    for k in (2, 3):
        module = objective.heads[f"layer3_target{k}"]
        between = F.embedding(x[:, k - 1 : 15 + k], network.embedding.weight)
        if network.settings.block == "modern":
            read = rms_norm(state, module.state_norm.weight), rms_norm(between, module.embedding_norm.weight)
        else:
            read = module.state_norm(state), module.embedding_norm(between)
        joined = F.linear(torch.cat(read, -1), module.projection.weight, module.projection.bias)
        state = module.block(joined, network.angles(0, 16, x.device), None, None)
        logits[k] = network.output(network.norm(state))
    return logits


@pytest.mark.parametrize("few_rows", [False, True])
@pytest.mark.parametrize("model", [{}, {"block": "paper"}, {"positions": "sinusoidal", "norm_placement": "post"}])
def test_total_and_gradients_are_those_of_the_formula(model, few_rows, monkeypatch):
    if few_rows:
        monkeypatch.setattr(language_model, "MAX_LOGIT_BYTES", 0)
    network, objective = pair(ObjectiveConfig(**CHAINED, intermediate_weight=0.3, target_weight=0.4), **model)
    x, parameters = windows(), [*network.parameters(), *objective.parameters()]
    report = objective(network, x, progress=0.2)
    total = torch.zeros((), dtype=torch.float64)
    for k, logits in logits_by_hand(network, objective, x).items():
        loss = F.cross_entropy(logits.flatten(0, 1), x[:, k : 16 + k].flatten())
        total = total + (1.0 if k == 1 else 0.4) * loss
        term = report.terms["main" if k == 1 else f"layer3.target{k}"]
        assert (term.value, term.count) == (pytest.approx(loss.item(), rel=1e-12), 32)
    hidden = network(x[:, :16], output_hidden={2}).hidden[2]
    logits = objective.heads["layer2_target1"](F.layer_norm(hidden, (32,)))
    total = total + 0.3 * F.cross_entropy(logits.flatten(0, 1), x[:, 1:17].flatten())
    assert set(report.terms) == {"layer2.target1", "main", "layer3.target2", "layer3.target3"}
    assert report.total.item() == pytest.approx(total.item(), rel=1e-12)
    got = torch.autograd.grad(report.total, parameters, allow_unused=True)
    for mine, by_hand in zip(got, torch.autograd.grad(total, parameters, allow_unused=True), strict=True):
        torch.testing.assert_close(mine, by_hand, rtol=1e-9, atol=1e-12)


def test_intermediate_layers_predict_the_next_character_only():
    for heads, expected in (("own", {"layer1_target1", "layer2_target1"}), ("shared", set())):
        network, objective = pair(ObjectiveConfig(**CHAINED, intermediate_schedule="never", intermediate_heads=heads))
        assert set(objective.heads) == expected | {"layer3_target2", "layer3_target3"}
        terms = objective(network, windows(), progress=0.0).terms
        assert set(terms) == {"layer1.target1", "layer2.target1", "main", "layer3.target2", "layer3.target3"}


def test_logits_depend_on_no_character_from_the_target_on():
    network, objective = pair(ObjectiveConfig(**CHAINED))
    x = windows()
    changed = x.clone()
    changed[:, 10:] += 1
    for ids in (x, changed):
        ids %= 256
    final = network(x[:, :16], output_hidden={3}).hidden[3]
    one, other = (dict(objective.chained_states(network, final, ids, 3)) for ids in (x, changed))
    for k in (2, 3):
        first = 10 - k + 1  # the first position whose module reads character 10
        assert torch.equal(one[k][:, :first], other[k][:, :first])
        assert not torch.equal(one[k][:, first], other[k][:, first])
    assert chained_logits(network, one[2]).shape == (2, 16, 256)


def test_a_chain_ends_at_the_last_active_target():
    """A target of weight 0 is computed only if a later one reads its state."""
    network, objective = pair(ObjectiveConfig(**CHAINED, intermediate=False, target_schedule="blockwise"))
    called = []
    for name, module in objective.heads.items():
        module.register_forward_hook(lambda *_, name=name: called.append(name))
    seen = set()
    for step in range(12):
        called.clear()
        terms = objective(network, windows(), 0.1, step=step).terms
        (active,) = [name for name, term in terms.items() if term.weight]
        last = 1 if active == "main" else int(active[-1])
        assert called == [f"layer3_target{k}" for k in range(2, last + 1)]
        seen.add(last)
    assert seen == {1, 2, 3}
    assert len(pair(ObjectiveConfig(**CHAINED, target_weight=0.0))[1].heads) == 2  # of the intermediate layers


def test_last_position_alone_is_refused():
    with pytest.raises(UserError, match=r"objective.target_heads is chained.*set positions to all"):
        ObjectiveConfig(**CHAINED, positions="last")


def trainer(prose: bytes, model: dict | None = None, **fields):
    settings = {"steps": 6, "log_every": 1, "diagnose_every": 0} | fields
    return make_trainer(prose, small(**(model or {})), ObjectiveConfig(**CHAINED), **settings)


def test_micro_batches_equal_the_full_batch(prose):
    gradients = []
    for micro_batch in (4, 3):
        one = trainer(prose, {"dropout": 0.2}, batch=4, micro_batch=micro_batch, dtype=torch.float64)
        terms = [report.terms for report in one.accumulate_gradients(0.1)]
        assert terms[0]["layer3.target3"].count == (4 if micro_batch == 4 else 3) * 16
        gradients.append([p.grad for p in one.parameters if p.grad is not None])
    for expected, gradient in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


def test_a_resumed_run_equals_an_uninterrupted_run(tmp_path, prose):
    for name, stops in (("whole", [6]), ("parts", [2, 6])):
        (tmp_path / name).mkdir()
        for stop in stops:
            one = trainer(prose, {"dropout": 0.1})
            if (checkpoint := load_newest(tmp_path / name / "checkpoints")) is not None:
                one.restore(checkpoint)
            list(train(one, tmp_path / name, None, lambda one=one, stop=stop: one.counters.step >= stop))
    whole, parts = (load_newest(tmp_path / name / "checkpoints") for name in ("whole", "parts"))
    assert any(name.startswith("heads.layer3_target3.block.") for name in whole.heads)
    for part in ("network", "heads", "optimizer"):
        for name, tensor in getattr(whole, part).items():
            assert torch.equal(tensor, getattr(parts, part)[name]), name


def test_accelerated_blocks_compute_the_same(prose):
    (plain_network, plain), (network, fast) = pair(ObjectiveConfig(**CHAINED)), pair(ObjectiveConfig(**CHAINED))
    accelerate(network)
    accelerate(fast)
    totals = [objective(model, windows(), 0.1).total for model, objective in ((plain_network, plain), (network, fast))]
    assert totals[1].item() == pytest.approx(totals[0].item(), rel=1e-12)
    for total in totals:
        total.backward()
    for expected, got in zip(plain.parameters(), fast.parameters(), strict=True):
        torch.testing.assert_close(got.grad, expected.grad, rtol=1e-8, atol=1e-11)


def test_dropout_masks_of_each_module_are_its_own():
    network, objective = pair(ObjectiveConfig(**CHAINED), dropout=0.5)
    final = network(windows()[:, :16], output_hidden={3}).hidden[3]
    dropout = Dropout(0.5, torch.tensor([1, 2]))
    seen = []
    for module in (objective.heads["layer3_target2"], objective.heads["layer3_target3"]):
        module.register_forward_pre_hook(lambda _, args, kw: seen.append(kw["dropout"].keys_B), with_kwargs=True)
    dict(objective.chained_states(network, final, windows(), 3, dropout))
    masks = [dropout.fold_in(layer).keys_B.tolist() for layer in range(5)]
    assert [keys.tolist() for keys in seen] == masks[3:]
    assert len({tuple(keys) for keys in masks}) == 5


def test_muon_updates_the_matrices_of_the_chain(prose):
    one = trainer(prose)
    names = {id(p): name for name, p in named_parameters(one.network, one.objective.heads)}
    muon = [names[id(p)] for group in one.optimizers[0].param_groups for p in group["params"]]
    assert {name for name in muon if name.startswith("heads.")} == {
        f"heads.layer3_target{k}.{part}.weight"
        for k in (2, 3)
        for part in (
            "projection",
            *(f"block.attention.{matrix}" for matrix in ("query", "key", "value", "output")),
            *(f"block.feed_forward.{matrix}" for matrix in ("gate", "up", "down")),
        )
    }


def test_bfloat16_trains_near_float32(prose):
    losses = [
        [trainer_.step().report.value for _ in range(4)]
        for trainer_ in (trainer(prose, precision=precision) for precision in ("float32", "bfloat16"))
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_diagnosis_groups_chained_targets_with_targets(prose):
    step = trainer(prose, diagnose_every=1).step()
    assert step.diagnosis is not None and set(step.diagnosis.groups) == {"layers", "targets"}
