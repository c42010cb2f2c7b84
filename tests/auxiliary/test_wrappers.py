"""Models in wrappers, models changed after `attach`, and deleted objectives."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

from auxiliary.test_objective import stack, term
from charladder import auxiliary as aux
from charladder.auxiliary._head_gradients import ddp_around


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(5)


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    return torch.randn(6, 8), torch.randint(0, 3, (6,))


class Engine(nn.Module):
    """Like DeepSpeed's engine: runs the model, and has no parameters of its own."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.module = model

    def forward(self, *inputs):
        return self.module(*inputs)


class Compiled(nn.Module):
    """Like torch.compile's wrapper."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._orig_mod = model

    def forward(self, *inputs):
        return self._orig_mod(*inputs)


class Checkpointed(nn.Module):
    """Like the wrapper of torch's apply_activation_checkpointing."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._checkpoint_wrapped_module = module

    def forward(self, *inputs):
        return checkpoint(self._checkpoint_wrapped_module, *inputs, use_reentrant=False)


class FabricModule(nn.Module):
    """Like Lightning Fabric's, which has the model twice: inside the wrapper that runs it, and by itself."""

    def __init__(self, model: nn.Module, runs: nn.Module | None = None) -> None:
        super().__init__()
        self._forward_module, self._original_module = runs or Engine(model), model

    def forward(self, *inputs):
        return self._forward_module(*inputs)


class Tuner(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs):
        return self.model(*inputs)


class PeftModel(nn.Module):
    """Like PEFT's."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.base_model = Tuner(model)

    def forward(self, *inputs):
        return self.base_model(*inputs)

    def get_base_model(self):
        return self.base_model.model


class PeftMixedModel(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.base_model = Tuner(model)

    def forward(self, *inputs):
        return self.base_model(*inputs)


class PeftModelForCausalLM(PeftModel):
    """PEFT has one class for each task."""


WRAPPERS = [
    Engine,
    FabricModule,
    PeftModelForCausalLM,
    PeftMixedModel,
    lambda model: Engine(PeftModel(model)),
    lambda model: Compiled(Engine(model)),
]


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_tap_names_are_those_inside_the_wrapper(data, wrap):
    x, y = data
    model, head = stack(), nn.Linear(8, 3)
    terms = {"own": term(tap="layers.0", head=head), "theirs": term(tap="layers.*", head="out")}
    with aux.Objective(term(), terms) as plain:
        expected = plain(model, x, y)
    objective = aux.Objective(term(), terms)
    found = objective(wrap(model), x, y)
    assert torch.equal(found.total, expected.total) and set(found.terms) == set(expected.terms)
    assert torch.equal(objective(model, x, y).total, expected.total)  # the same model, with and without its wrapper
    assert set(aux.intermediate_terms(wrap(model), "layers.*", F.cross_entropy)) == {"layer1", "layer2"}
    assert list(aux.by_depth(wrap(model), "layers.*")) == ["layers.0", "layers.1", "layers.2"]


def test_averaged_model_needs_its_own_objective(data):
    x, y = data
    model = stack()
    objective = aux.Objective(term(), {"a": term(tap="layers.0", head=nn.Linear(8, 3))}, model=model)
    average = AveragedModel(model)
    with pytest.raises(aux.AuxiliaryError, match="attached to another model"):
        objective(average, x, y)
    assert torch.equal(copy.deepcopy(objective)(average, x, y).total, objective(model, x, y).total)


@pytest.mark.parametrize(
    ("wrap", "prefix"), [(Engine, "module"), (PeftModel, "base_model.model"), (AveragedModel, "module")]
)
def test_tap_names_may_include_the_wrapper(data, wrap, prefix):
    x, y = data
    model = wrap(stack())
    objective = aux.Objective(term(), {"a": term(tap=f"{prefix}.layers.0", head=f"{prefix}.out")})
    assert objective(model, x, y).terms["a"].value > 0
    assert objective(model, x, y).terms["a"].value > 0


def test_module_with_its_own_parameters_is_no_wrapper(data):
    x, y = data
    model = Engine(stack())
    model.scale = nn.Parameter(torch.ones(()))
    head = nn.Sequential(nn.Linear(8, 3))
    head.scale = model.scale
    objective = aux.Objective(term(), {"a": term(tap="module.layers.0", head=head)}).attach(model)
    assert len(list(objective.parameters())) == 2  # without the scale
    assert objective(model, x, y).terms["a"].value > 0


@pytest.mark.parametrize(
    "wrap", [lambda ddp: ddp, Compiled, Engine, PeftModel, lambda ddp: FabricModule(ddp.module, ddp)]
)
def test_ddp_is_found_inside_other_wrappers(wrap):
    ddp = DistributedDataParallel.__new__(DistributedDataParallel)  # without a process group
    nn.Module.__init__(ddp)
    ddp.module = stack()
    assert ddp_around(wrap(ddp)) is ddp
    assert ddp_around(Compiled(Engine(stack()))) is None


class Adapted(nn.Module):
    """Like a layer of PEFT, around the one that it replaces."""

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer, self.added = base_layer, nn.Linear(8, 8)

    def forward(self, x):
        return self.base_layer(x) + self.added(x)


def test_replaced_tapped_module_raises(data):
    x, y = data
    model, head = stack(), nn.Linear(8, 3)
    objective = aux.Objective(
        term(), {"a": term(tap="layers.0", head=head, weight=aux.schedules.until(0.5))}, model=model
    )
    model.layers[0] = Adapted(model.layers[0])
    sentence = r"term 'a': its tap layers.0 was replaced by another module \(Adapted\) after the objective was attached"
    with pytest.raises(aux.AuxiliaryError, match=sentence):
        objective(model, x, y, progress=0.0)
    assert set(objective(model, x, y, progress=0.5).terms) == {"main"}  # an inactive term reads nothing
    objective.remove()
    report = objective.attach(model)(model, x, y, progress=0.0)
    assert report.terms["a"].value == float(F.cross_entropy(head(model.layers[0](x)), y).detach())


def test_replaced_head_of_the_model_raises(data):
    x, y = data
    model = stack()
    objective = aux.Objective(term(), {"a": term(tap="layers.0", head="out")}, model=model)
    model.out = nn.Linear(8, 3)
    returned = aux.Objective(term(), {"a": term(select=lambda out: out, head="head")})
    holder = nn.Sequential(nn.Linear(8, 3))
    holder.head = nn.Linear(3, 3)
    returned.attach(holder)
    holder.head = nn.Linear(3, 3)
    for call, head in (
        (lambda: objective(model, x, y), "out"),
        (lambda: returned(holder, x, y), "head"),
        (lambda: returned.from_output(x[:, :3], y), "head"),
    ):
        with pytest.raises(aux.AuxiliaryError, match=f"term 'a': its head {head} was replaced by another module"):
            call()


def test_removed_tapped_module_raises(data):
    x, y = data
    model = stack()
    objective = aux.Objective(term(), {"a": term(tap="layers.2.1", head="out")}, model=model)
    del model.layers[2]
    with pytest.raises(aux.AuxiliaryError, match=r"term 'a': its tap layers.2.1 was taken out of the model after"):
        objective(model, x, y)


@pytest.mark.parametrize("how", ["checkpointing", "compilation"])
def test_tapped_module_may_be_wrapped_after_attach(data, how):
    x, y = data
    model = stack()
    objective = aux.Objective(term(), {"a": term(tap="layers.0", head="out")}, model=model)
    expected = objective(model, x, y).total
    model.layers[0] = {"checkpointing": Checkpointed, "compilation": Compiled}[how](model.layers[0])
    assert torch.equal(objective(model, x, y).total, expected)


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def test_deleted_objective_leaves_no_hooks(data):
    x, y = data
    model = stack()
    others = model.layers[0].register_forward_hook(lambda *_: None)
    first, second = (aux.Objective(term(), {"a": term(tap="layers.*", head="out")}, model=model) for _ in range(2))
    report = first(model, x, y)
    assert hooks(model) == 7
    del first
    assert hooks(model) == 4
    report.total.backward()  # reports remain valid
    assert second(model, x, y).terms["a.0"].value > 0
    del second
    assert hooks(model) == 1
    others.remove()


def test_deleted_copy_keeps_the_hooks_of_the_original(data):
    """A copied model has a copy of its objective."""
    x, y = data
    model = stack()
    model.objective = aux.Objective(term(), {"a": term(tap="layers.0", head=nn.Linear(8, 3))}, model=model)
    model.forward = lambda x: model.out(model.layers(x))
    again = copy.deepcopy(model)
    assert hooks(model) == hooks(again) == 1
    del again.objective
    assert (hooks(model), hooks(again)) == (1, 0)
    assert model.objective(model, x, y).terms["a"].value > 0


@pytest.mark.parametrize("wrap", [lambda b: b, lambda b: nn.Sequential(nn.LayerNorm(8), b)], ids=["itself", "inside"])
def test_replaced_head_given_as_module_raises(wrap):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x):
            return self.b(self.a(x))

    model, x, y = Two(), torch.randn(6, 8), torch.randint(0, 3, (6,))
    objective = aux.Objective(
        aux.Term(F.cross_entropy), {"early": aux.Term(F.cross_entropy, tap="a", head=wrap(model.b))}, model=model
    )
    objective(model, x, y)
    model.b = nn.Linear(8, 3)
    with pytest.raises(aux.AuxiliaryError, match="term 'early': its head b was replaced by another module"):
        objective(model, x, y)
