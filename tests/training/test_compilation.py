import pytest
import torch
from torch._dynamo.utils import counters

from charladder.cli.main import main
from charladder.errors import UserError
from charladder.training.compilation import compile_blocks, should_compile
from helpers import make_trainer, small

# torch's compiler looks at the gradient of what blocks are given, and torch warns of it.
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


def test_auto_compiles_on_a_gpu_that_can_and_nowhere_else(monkeypatch):
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    able, there = (9, 0), object()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: able)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: there)
    assert [should_compile(name, on) for name in ("auto", "blocks", "graphs", "never") for on in (gpu, cpu)] == [
        True, False, True, True, True, True, False, False,
    ]  # fmt: skip
    able = (6, 1)
    assert not should_compile("auto", gpu)
    able, there = (9, 0), None
    assert not should_compile("auto", gpu)


def test_graphs_want_the_whole_batch_at_once(prose):
    with pytest.raises(UserError, match=r"training.micro_batch 2 to 0"):
        make_trainer(prose, compile="graphs", micro_batch=2)


@pytest.mark.parametrize("changes", [{}, {"block": "paper", "dropout": 0.3}])
def test_one_compilation_serves_every_layer_and_the_whole_schedule(prose, changes):
    """Layers fall silent one by one, masks change from step to step, and the gradients of terms are compared on the
    way: one graph, and the curve that there is without it."""
    fields = {"model": small(layers=6, **changes), "dtype": torch.float64, "steps": 12, "diagnose_every": 5}
    plain, compiled = make_trainer(prose, **fields), make_trainer(prose, **fields)
    compile_blocks(compiled.network, backend="aot_eager")
    compiled.is_compiled = True
    assert losses(compiled, 12) == pytest.approx(losses(plain, 12), rel=1e-9)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


def test_windows_of_two_lengths_are_two_graphs(prose):
    trainer = make_trainer(prose, steps=8, cut_windows=2, diagnose_every=0)
    compile_blocks(trainer.network, backend="aot_eager")
    losses(trainer, 8)
    assert counters["stats"]["unique_graphs"] == 2


def test_validation_on_the_way_compiles_nothing(prose, text_file, tmp_path, monkeypatch):
    """Stretches of other lengths than windows are scored while a run trains."""
    monkeypatch.setattr(
        "charladder.training.trainer.compile_blocks", lambda network, **_: compile_blocks(network, "aot_eager")
    )
    words = [
        "--steps",
        "4",
        "--layers",
        "2",
        "--width",
        "32",
        "--context",
        "16",
        "--batch",
        "2",
        "--training.cut_windows",
    ]
    words += [
        "1",
        "--training.compile",
        "blocks",
        "--training.validation_characters",
        "100",
        "--run",
        str(tmp_path / "r"),
    ]
    assert main(["train", str(text_file), *words]) == 0
    assert counters["stats"]["unique_graphs"] == 1


def test_checkpoints_of_compiled_networks_have_the_same_names(prose):
    plain, compiled = make_trainer(prose), make_trainer(prose)
    compile_blocks(compiled.network, backend="aot_eager")
    compiled.step()
    saved = compiled.checkpoint()
    assert saved.network.keys() == plain.network.state_dict().keys()
    plain.restore(saved)


@pytest.mark.slow
@pytest.mark.parametrize(("compile", "changes"), [("blocks", {}), ("graphs", {"block": "paper", "dropout": 0.3})])
def test_the_real_compiler_gives_the_same_curve(prose, compile, changes):
    fields = {"model": small(**changes), "steps": 12, "diagnose_every": 5}
    plain, compiled = make_trainer(prose, **fields), make_trainer(prose, compile=compile, **fields)
    assert losses(compiled, 12) == pytest.approx(losses(plain, 12), rel=1e-4)
    assert counters["stats"]["unique_graphs"] == 1
