"""torch.compile of the blocks: when it is used, how often it compiles, and that losses are the same."""

import pytest
import torch
from torch._dynamo.utils import counters

from charladder.cli.main import main
from charladder.errors import UserError
from charladder.objective import ObjectiveConfig
from charladder.training.compilation import compile_blocks, should_compile
from helpers import make_trainer, small

# torch.compile reads the gradient of the inputs of the blocks, and torch warns about that.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated"),
]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def losses(trainer, steps):
    return [float(trainer.step().report.total) for _ in range(steps)]


def test_auto_compiles_on_supported_gpus_only(monkeypatch):
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    capability, triton = (9, 0), object()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: triton)
    assert [should_compile(mode, on) for mode in ("auto", "blocks", "graphs", "never") for on in (gpu, cpu)] == [
        True, False, True, True, True, True, False, False,
    ]  # fmt: skip
    capability = (6, 1)
    assert not should_compile("auto", gpu)
    capability, triton = (9, 0), None
    assert not should_compile("auto", gpu)


def test_graphs_refuse_micro_batches(prose):
    with pytest.raises(UserError, match=r"training.micro_batch 2 to 0"):
        make_trainer(prose, compile="graphs", micro_batch=2)


@pytest.mark.parametrize("changes", [{}, pytest.param({"block": "paper", "dropout": 0.3}, marks=pytest.mark.slow)])
def test_one_compilation_serves_all_layers_and_all_steps(prose, changes):
    """While weights of losses become 0, dropout masks change and gradients are diagnosed, there is one compiled graph,
    and the losses are those of eager steps."""
    fields = {"model": small(layers=6, **changes), "dtype": torch.float64, "steps": 12, "diagnose_every": 5}
    eager, compiled = make_trainer(prose, **fields), make_trainer(prose, **fields)
    compile_blocks(compiled.network, backend="aot_eager")
    compiled.is_compiled = True
    assert losses(compiled, 12) == pytest.approx(losses(eager, 12), rel=1e-9)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


def test_blocks_of_chained_targets_need_no_graph_of_their_own(prose):
    objective = ObjectiveConfig(targets=3, target_heads="chained")
    fields = {"objective": objective, "dtype": torch.float64, "steps": 4, "diagnose_every": 0}
    eager, compiled = make_trainer(prose, **fields), make_trainer(prose, **fields)
    for module in (compiled.network, compiled.objective):
        compile_blocks(module, backend="aot_eager")
    assert losses(compiled, 4) == pytest.approx(losses(eager, 4), rel=1e-9)
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.slow
def test_windows_of_two_lengths_need_two_graphs(prose):
    trainer = make_trainer(prose, steps=8, cut_windows=2, diagnose_every=0)
    compile_blocks(trainer.network, backend="aot_eager")
    losses(trainer, 8)
    assert counters["stats"]["unique_graphs"] == 2


def test_validation_compiles_nothing(prose, text_file, tmp_path, monkeypatch):
    """Validations score stretches of other lengths than the windows of training."""
    monkeypatch.setattr(
        "charladder.training.trainer.compile_blocks", lambda network, **_: compile_blocks(network, "aot_eager")
    )
    options = "--steps 4 --layers 2 --width 32 --context 16 --batch 2 --training.cut_windows 1"
    options += " --training.compile blocks --training.validation_characters 100"
    assert main(["train", str(text_file), *options.split(), "--run", str(tmp_path / "r")]) == 0
    assert counters["stats"]["unique_graphs"] == 1


def test_checkpoints_of_compiled_networks_have_the_same_names(prose):
    eager, compiled = make_trainer(prose), make_trainer(prose)
    compile_blocks(compiled.network, backend="aot_eager")
    compiled.step()
    saved = compiled.checkpoint()
    assert saved.network.keys() == eager.network.state_dict().keys()
    eager.restore(saved)


@pytest.mark.slow
@pytest.mark.parametrize(("compile", "changes"), [("blocks", {}), ("graphs", {"block": "paper", "dropout": 0.3})])
def test_inductor_gives_the_same_losses(prose, compile, changes):
    fields = {"model": small(**changes), "steps": 12, "diagnose_every": 5}
    eager, compiled = make_trainer(prose, **fields), make_trainer(prose, compile=compile, **fields)
    assert losses(compiled, 12) == pytest.approx(losses(eager, 12), rel=1e-4)
    assert counters["stats"]["unique_graphs"] == 1
