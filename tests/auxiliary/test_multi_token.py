"""Presets of multi-token prediction against formulas written by hand for each position: values, counts, gradients."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from auxiliary.test_representation_presets import check, token_loss, tokens_model
from charladder import auxiliary as aux
from charladder.auxiliary.presets import _chained_targets

B, T, V = 3, 7, 10
IDS = torch.randint(V, (B, T + 1), generator=torch.Generator().manual_seed(1))
INPUTS = IDS[:, :-1]
LABELS = IDS[:, 1:].clone()
LABELS[2, 4:] = -100  # the last sequence is padded on the right


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(5)


class Causal(nn.Module):
    """The mean of all positions up to each, and a linear layer."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.inside = nn.Linear(width, width)

    def forward(self, x):
        return self.inside(x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None]).tanh() + x


def main_term():
    return aux.Term(token_loss)


def positions(offset: int):
    """Every sequence and position that has a token `offset` positions ahead."""
    return [(b, t) for b in range(B) for t in range(T - offset + 1) if LABELS[b, t + offset - 1] != -100]


def by_offset(logits, offset: int):
    """The mean cross-entropy of the token `offset` positions ahead, over the positions that have one."""
    losses = [-logits[b, t].log_softmax(-1)[LABELS[b, t + offset - 1]] for b, t in positions(offset)]
    return sum(losses) / len(losses)


def test_independent_heads_share_the_unembedding():
    model, heads = tokens_model(), {2: Causal(), 3: Causal()}
    terms = aux.presets.independent_targets("mix", heads, model.out, weight="deepseek")
    objective = aux.Objective(main_term(), terms, model=model)
    report = objective(model, INPUTS, LABELS, progress=0.0)
    state = model.mix(model.embed(INPUTS))
    by_hand = by_offset(model.out(state), 1)
    for offset, head in heads.items():
        by_hand = by_hand + 0.15 * by_offset(model.out(head(state)), offset)
    check(report, by_hand, model, *heads.values())
    assert {name: int(term.count) for name, term in report.terms.items()} == {"main": 18, "target2": 15, "target3": 12}
    assert not any("out" in name or name.endswith("1.weight") for name in objective.state_dict())  # the model's own


def test_leap_heads_predict_at_a_stride():
    model, heads = tokens_model(), [nn.Linear(8, V), nn.Linear(8, V)]
    report = aux.Objective(main_term(), aux.presets.leap_targets("mix", heads, stride=2))(model, INPUTS, LABELS)
    state = model.mix(model.embed(INPUTS))
    by_hand = by_offset(model.out(state), 1) + by_offset(heads[0](state), 3) + by_offset(heads[1](state), 5)
    check(report, by_hand, model, *heads)
    assert list(report.terms) == ["main", "target3", "target5"]


def chained_by_hand(model, modules, embed_ids):
    """The mean loss of each offset; embed_ids: (B, T + 1), what is embedded at each position."""
    state, losses = model.mix(model.embed(INPUTS)), []
    for offset, module in enumerate(modules, 2):
        between = F.pad(embed_ids, (0, offset))[:, offset - 1 : offset - 1 + T]
        read = [
            gain * x / (x.square().mean(-1, keepdim=True) + torch.finfo(x.dtype).eps).sqrt()
            for x, gain in (
                (state, module.state_norm.weight),
                (model.embed(between), module.embedding_norm.weight),
            )
        ]
        state = module.block(torch.cat(read, -1) @ module.projection.weight.T)
        losses.append(by_offset(model.out(state), offset))
    return losses


@pytest.mark.parametrize("given", [False, True])
def test_chained_modules_are_those_of_the_formula(given):
    """Tokens in the padding differ from those of the labels, and nothing counts there."""
    model, modules = tokens_model().double(), [aux.heads.ChainedModule(8, Causal()).double() for _ in range(2)]
    chain = aux.presets.chained_targets("mix", modules, model.embed, model.out, tokens="ids" if given else None)
    objective = aux.Objective(main_term(), {"chain": chain}, model=model)
    targets = {"main": LABELS, "chain": LABELS, "ids": INPUTS} if given else LABELS
    report = objective(model, INPUTS, targets, progress=0.9)
    ids = INPUTS if given else torch.cat([INPUTS[:, :1], LABELS.clamp(min=0)], 1)
    two, three = chained_by_hand(model, modules, ids)
    check(report, by_offset(model(INPUTS), 1) + 0.05 * (two + three), model, *modules)
    parts = report.terms["chain"].parts
    assert {name: int(part.count) for name, part in parts.items()} == {"target2": 15, "target3": 12}
    assert report.terms["chain"].weight == pytest.approx(0.05)
    saved = {name for name in objective.state_dict() if "embedding." in name or "unembedding" in name}
    assert not saved  # the model's own


def chain_objective(model, **fields):
    modules = [aux.heads.ChainedModule(8, Causal()) for _ in range(2)]
    chain = aux.presets.chained_targets("mix", modules, model.embed, model.out, weight=0.5, **fields)
    return aux.Objective(main_term(), {"chain": chain}, model=model)


def test_a_chain_needs_tokens_where_labels_do_not_count(monkeypatch):
    """As labels of a prompt. The modules would read the token 0 there."""
    model, prompt = tokens_model(), LABELS.clone()
    prompt[1, :2] = -100
    objective, with_tokens = chain_objective(model), chain_objective(model, tokens="ids")
    with pytest.raises(aux.AuxiliaryError, match=r"term 'chain'.*: chained_targets: a label is -100 before others"):
        objective(model, INPUTS, prompt)
    targets = {"main": prompt, "ids": INPUTS}
    assert int(with_tokens(model, INPUTS, targets).terms["chain"].parts["target2"].count) == 15 - 1
    with pytest.raises(aux.AuxiliaryError, match=r"the tokens have ids below 0; give the ids that the model reads"):
        with_tokens(model, INPUTS, targets | {"ids": prompt})
    # On an accelerator the labels are not read.
    monkeypatch.setattr(_chained_targets, "is_readable", lambda tensor: False)
    with pytest.raises(aux.NotFiniteError, match="term 'chain', part 'target2' is nan"):
        objective(model, INPUTS, prompt)


def test_the_own_label_of_the_first_position_may_be_ignored():
    """No module reads it."""
    model, labels = tokens_model(), IDS.clone()
    labels[:, 0] = -100
    objective = chain_objective(model, shifted=False)
    one, other = (objective(model, IDS, own).terms["chain"].value for own in (IDS, labels))
    assert one == other


def ranking_by_hand(scores, window: int):
    losses = []
    for b in range(B):
        for t in range(T):
            first = {}
            for distance in range(1, window + 1):
                at = t + distance - 1
                if at < T and LABELS[b, at] != -100:
                    first.setdefault(int(LABELS[b, at]), distance)
            if first:
                weights = torch.tensor([float(window - d) for d in first.values()]).softmax(0)
                log_p = scores[b, t].log_softmax(-1)
                losses.append(-sum(w * log_p[token] for w, token in zip(weights, first, strict=True)))
    return sum(losses) / len(losses), len(losses)


@pytest.mark.parametrize("window", [1, 3, 20])
def test_token_order_ranks_the_tokens_of_the_window(window):
    model, head = tokens_model(), nn.Linear(8, V, bias=False)
    order = aux.presets.token_order("mix", head, window, weight=0.5)
    report = aux.Objective(main_term(), {"order": order})(model, INPUTS, LABELS)
    ranked, count = ranking_by_hand(head(model.mix(model.embed(INPUTS))), window)
    check(report, by_offset(model(INPUTS), 1) + 0.5 * ranked, model, head)
    assert int(report.terms["order"].count) == count == 18


@pytest.mark.parametrize(("window", "first"), [(1, 1), (3, 2), (20, 1)])
def test_future_bag_has_the_tokens_of_the_window(window, first):
    model, head, factors = tokens_model(), nn.Linear(8, V), torch.rand(V)
    bag = aux.presets.future_bag("mix", head, window, first=first, token_weights=factors)
    report = aux.Objective(main_term(), {"bag": bag})(model, INPUTS, LABELS)
    logits, losses = head(model.mix(model.embed(INPUTS))), []
    for b in range(B):
        for t in range(T):
            ahead = LABELS[b, t + first - 1 : t + first - 1 + window].tolist()
            if any(token != -100 for token in ahead):
                there = torch.tensor([float(token in ahead) for token in range(V)])
                p = logits[b, t].sigmoid()
                losses.append(-(factors * (there * p.log() + (1 - there) * (1 - p).log())).mean())
    check(report, by_offset(model(INPUTS), 1) + sum(losses) / len(losses), model, head)
    assert int(report.terms["bag"].count) == len(losses)


def terms_of_all(model):
    modules = [aux.heads.ChainedModule(8, Causal()) for _ in range(2)]
    return {
        **aux.presets.independent_targets("mix", {2: Causal()}, model.out),
        "chain": aux.presets.chained_targets("mix", modules, model.embed, model.out, weight=0.3),
        "order": aux.presets.token_order("mix", nn.Linear(8, V), 3),
        "bag": aux.presets.future_bag("mix", nn.Linear(8, V), 3),
    }


def test_micro_batches_add_up_exactly():
    """Also where a sequence, or a whole micro-batch, has nothing to predict at an offset."""
    labels = LABELS.clone()
    labels[2, 1:] = -100
    model = tokens_model().double()
    objective = aux.Objective(main_term(), terms_of_all(model), model=model).double()
    whole = objective(model, INPUTS, labels)
    parameters = [*model.parameters(), *objective.parameters()]
    expected = torch.autograd.grad(whole.total, parameters)
    counts = objective.counts(labels[n : n + 1] for n in range(B))
    assert counts["chain"] == {"target2": 12, "target3": 10}
    for n in range(B):
        objective(model, INPUTS[n : n + 1], labels[n : n + 1], counts=counts).total.backward()
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-9, atol=1e-12)


def test_labels_of_the_own_position_give_the_same():
    """As in transformers: a position has its own token as label, and the last position predicts nothing."""
    model = tokens_model()
    modules = [aux.heads.ChainedModule(8, Causal())]

    def report(inputs, targets, shifted):
        same = {"weight": 1.0, "shifted": shifted}
        terms = {
            **aux.presets.independent_targets("mix", {3: copy.deepcopy(modules[0].block)}, model.out, **same),
            "chain": aux.presets.chained_targets("mix", modules, model.embed, model.out, **same),
            "order": aux.presets.token_order("mix", model.out, 2, **same),
            "bag": aux.presets.future_bag("mix", model.out, 2, **same),
        }
        main = aux.Term(lambda logits: logits.mean(), target=None, count=1)
        return aux.Objective(main, terms, model=model)(model, inputs, targets).terms

    own = report(IDS, IDS, shifted=False)
    shifted = report(INPUTS, IDS[:, 1:], shifted=True)
    for name in ("target3", "order", "bag", "chain"):
        assert own[name].value == pytest.approx(shifted[name].value, rel=1e-6), name


def test_a_sequence_shorter_than_the_offset_adds_nothing():
    model = tokens_model()
    terms = aux.presets.leap_targets("mix", [nn.Linear(8, V)], stride=9)
    report = aux.Objective(main_term(), terms)(model, INPUTS, LABELS)
    assert (float(report.terms["target10"].count), report.terms["target10"].value) == (0, 0)
    report.total.backward()


@pytest.mark.slow
def test_a_model_of_transformers():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=V, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2
    )
    model = transformers.LlamaForCausalLM(config)
    modules = [aux.heads.ChainedModule(16, Causal(16))]
    terms = {
        **aux.presets.independent_targets("model.norm", {2: Causal(16)}, model.lm_head, shifted=False, labels="labels"),
        "chain": aux.presets.chained_targets(
            "model.norm", modules, model.model.embed_tokens, model.lm_head, shifted=False, labels="labels",
            tokens="input_ids",
        ),
    }  # fmt: skip
    main = aux.Term(lambda loss: loss, select="loss", target=None, count=1)
    objective = aux.Objective(main, terms, model=model)
    batch = {"input_ids": IDS, "labels": IDS}
    report = objective(model, batch, batch, progress=0.0)
    report.total.backward()
    assert {name: int(part.count) for name, part in report.terms["chain"].parts.items()} == {"target2": B * (T - 1)}
    assert all(parameter.grad is not None for parameter in objective.parameters())
