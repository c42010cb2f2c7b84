"""Losses of routers against transformers' own, and against their formulas; the z-loss of logits."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from charladder import auxiliary as aux

EXPERTS, TOKENS = 4, 6
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0]])


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(3)


def language_model(family):
    transformers = pytest.importorskip("transformers")
    sizes = {
        "vocab_size": 20, "hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "num_experts_per_tok": 2, "output_router_logits": True, "router_aux_loss_coef": 0.5,
    }  # fmt: skip
    if family == "mixtral":
        config = transformers.MixtralConfig(**sizes, num_local_experts=EXPERTS)
        model = transformers.MixtralForCausalLM(config)
    else:
        model = transformers.OlmoeForCausalLM(transformers.OlmoeConfig(**sizes, num_experts=EXPERTS, eos_token_id=0))
    for name, parameter in model.named_parameters():  # OLMoE's routers begin with zeros, and all experts are equal
        if name.endswith("gate.weight"):
            nn.init.normal_(parameter)
    return model


@pytest.mark.slow  # imports transformers
@pytest.mark.parametrize("family", ["mixtral", "olmoe"])
def test_load_balance_is_the_one_of_transformers(family):
    model = language_model(family)
    tokens = torch.randint(20, MASK.shape)
    term = aux.presets.load_balance(2, mask="attention_mask", weight=0.5)
    main = aux.Term(lambda logits: logits.mean(), select="logits", target=None)
    objective = aux.Objective(main, {"balance": term})
    for mask in (MASK, torch.ones_like(MASK)):
        inputs = {"input_ids": tokens, "attention_mask": mask}
        theirs = model(**inputs)
        report = objective(model, inputs, {"attention_mask": mask})
        assert report.terms["balance"].value == pytest.approx(theirs.aux_loss.item(), rel=1e-5)
        found = torch.autograd.grad(report.losses["balance"], list(model.parameters()), allow_unused=True)
        wanted = torch.autograd.grad(theirs.aux_loss, list(model.parameters()), allow_unused=True)
        for one, other in zip(found, wanted, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                torch.testing.assert_close(one, other, atol=1e-7, rtol=1e-4)


class Routers(nn.Module):
    """Router logits of two layers, and the input as the main prediction."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, EXPERTS), nn.Linear(8, EXPERTS)

    def forward(self, x):
        first, second = self.first(x), self.second(x)
        return {"main": first.mean(), "router_logits": (first.flatten(0, 1), second.flatten(0, 1))}


def balance_by_hand(logits_NE, top_k):
    """E * sum of f_e P_e, expert by expert."""
    probabilities = logits_NE.softmax(-1)
    chosen = probabilities.topk(top_k).indices
    loss = 0
    for expert in range(EXPERTS):
        fraction = (chosen == expert).sum() / len(logits_NE)
        loss = loss + EXPERTS * fraction * probabilities[:, expert].mean()
    return loss


def objective_of(**terms):
    return aux.Objective(aux.Term(lambda output: output.mean(), target=None, count=1), terms)


def assert_same_gradients(one, other, model):
    parameters = list(model.parameters())
    for mine, theirs in zip(torch.autograd.grad(one, parameters), torch.autograd.grad(other, parameters), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_load_balance_and_router_z_by_hand():
    model, x = Routers(), torch.randn(*MASK.shape, 8)
    logits = [layer(x)[MASK.bool()] for layer in (model.first, model.second)]
    objective = objective_of(
        balance=aux.presets.load_balance(2, mask="mask"),
        z=aux.presets.router_z(mask="mask"),
        first=aux.presets.load_balance(1, mask="mask", tap="first", weight=0.1),
    )
    report = objective(model, x, {"mask": MASK})
    balance, first = balance_by_hand(torch.cat(logits), 2), balance_by_hand(logits[0], 1)
    z = sum(layer.exp().sum(-1).log().square().mean() for layer in logits) / 2
    total = model(x)["main"] + 0.01 * balance + 0.001 * z + 0.1 * first
    torch.testing.assert_close(report.total, total)
    assert_same_gradients(report.total, total, model)
    assert {name: float(report.terms[name].count) for name in ("balance", "z")} == {"balance": 11, "z": 11}


def test_router_z_of_micro_batches_is_exact_and_load_balance_is_their_weighted_mean():
    model, x = Routers(), torch.randn(*MASK.shape, 8)
    objective = objective_of(
        balance=aux.presets.load_balance(2, mask="mask"), z=aux.presets.router_z(mask="mask", weight=1.0)
    )
    pieces = [slice(0, 1), slice(1, 3)]
    counts = objective.counts({"mask": MASK[piece]} for piece in pieces)
    reports = [objective(model, x[piece], {"mask": MASK[piece]}, counts=counts) for piece in pieces]
    whole, merged = objective(model, x, {"mask": MASK}), aux.merge(reports)
    assert merged.terms["z"].value == pytest.approx(whole.terms["z"].value, rel=1e-6)
    assert_same_gradients(sum(report.losses["z"] for report in reports), whole.losses["z"], model)
    each = [objective(model, x[piece], {"mask": MASK[piece]}).terms["balance"].value for piece in pieces]
    assert merged.terms["balance"].value == pytest.approx((6 * each[0] + 5 * each[1]) / 11, rel=1e-6)


def test_sums_over_tokens_are_not_rounded_under_autocast():
    logits = torch.randn(1000, EXPERTS)
    term = aux.presets.load_balance(1, select=lambda output: output)
    objective = objective_of(balance=term, z=aux.presets.router_z(select=lambda output: output))
    with torch.autocast("cpu", torch.bfloat16):
        report = objective.from_output(logits)
    assert report.terms["balance"].value == pytest.approx(balance_by_hand(logits, 1).item(), rel=1e-5)
    assert report.terms["z"].value == pytest.approx(logits.logsumexp(-1).square().mean().item(), rel=1e-5)


def test_batch_of_padding_alone_adds_nothing():
    model, x, empty = Routers(), torch.randn(*MASK.shape, 8), torch.zeros_like(MASK)
    objective = objective_of(balance=aux.presets.load_balance(2, mask="mask"), z=aux.presets.router_z(mask="mask"))
    report = objective(model, x, {"mask": empty})
    assert report.terms["balance"].value == report.terms["z"].value == 0
    report.total.backward()
    assert model.second.weight.grad.eq(0).all() and model.first.weight.grad.isfinite().all()


def test_mask_of_another_size_is_refused():
    with pytest.raises(aux.AuxiliaryError, match="the mask has 12 tokens, and the router logits have 18"):
        objective_of(z=aux.presets.router_z(mask="mask"))(Routers(), torch.randn(3, 6, 8), {"mask": MASK[:2]})


def test_z_loss_by_hand():
    model, x, y = nn.Linear(8, 5), torch.randn(6, 8), torch.tensor([0, 1, -100, 3, 4, -100])
    objective = aux.Objective(aux.Term(F.cross_entropy), {"z": aux.presets.z_loss(weight=0.1)})
    report = objective(model, x, y)
    kept = model(x)[y != -100]
    total = F.cross_entropy(kept, y[y != -100]) + 0.1 * kept.exp().sum(-1).log().square().mean()
    torch.testing.assert_close(report.total, total)
    assert_same_gradients(report.total, total, model)
    counts = objective.counts([y[:2], y[2:]])
    halves = [objective(model, x[half], y[half], counts=counts) for half in (slice(0, 2), slice(2, 6))]
    torch.testing.assert_close(halves[0].total + halves[1].total, total)


def test_z_loss_reads_the_logits_of_a_model_output():
    logits, labels = torch.randn(2, 3, 5), torch.randint(5, (2, 3))
    objective = aux.Objective(
        aux.Term(lambda p, y: F.cross_entropy(p.flatten(0, 1), y.flatten()), target="labels"),
        {"z": aux.presets.z_loss(target="labels")},
    )
    report = objective.from_output({"logits": logits, "other": None}, {"labels": labels})
    assert report.terms["z"].value == pytest.approx(logits.logsumexp(-1).square().mean().item(), rel=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # in torch's own tracing of autograd functions
def test_a_whole_step_compiles():
    torch.compiler.reset()
    model = Routers()
    objective = aux.Objective(
        aux.Term(lambda loss: loss, target=None, count=1),
        {"balance": aux.presets.load_balance(2, mask="mask"), "z": aux.presets.router_z(mask="mask")},
        model=model,
    )

    def total(x, mask):
        return objective(model, x, {"mask": mask}).total

    compiled = torch.compile(total, backend="eager", fullgraph=True)
    for _ in range(2):
        x, mask = torch.randn(*MASK.shape, 8), (torch.rand(MASK.shape) < 0.7).long()
        found, wanted = compiled(x, mask), total(x, mask)
        torch.testing.assert_close(found, wanted)
        assert_same_gradients(found, wanted, model)
