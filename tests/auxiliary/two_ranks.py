"""Two processes that train together (gloo), and the same in one process with the joint batch.

`results` starts the two, once for a folder, and gives what each of them found. A case is a function of a wrapper
(`DDP`, `FSDP2`, or None for one process) that returns plain numbers; the two ranks run all of them in turn, and the
cells of the table of support after them.
"""

import datetime
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from filelock import FileLock
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from auxiliary import cells, features
from auxiliary.cells import DDP, FSDP2, gradients_at_home, wrap
from auxiliary.features import CLASSES, WIDTH, Network, fill
from charladder import auxiliary as aux

WORLD = 2
TIME = 900  # seconds for everything the two do; what takes longer hangs
SPLIT = 4  # rank 0 has the first four examples, rank 1 the other six
Case = Callable[[str | None], Any]


# What both sides have.


def rank() -> int | None:
    return dist.get_rank() if dist.is_initialized() else None


def share() -> slice:
    """Of the batch, what is this process's."""
    return {None: slice(None), 0: slice(SPLIT), 1: slice(SPLIT, None)}[rank()]


def batch() -> tuple[Tensor, dict[str, Tensor]]:
    """This process's part; of the four targets of rank 0 three are asked for, of the six of rank 1 four."""
    x, y = features.data()
    y[0] = y[5] = y[9] = -100
    mask = torch.arange(len(y)) % 3 == 0  # of rank 0: 2; of rank 1: 2
    mask[-1] = False
    real = torch.randn(len(y), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    everything = {"y": y, "mask": mask, "real": real, "weights": real.abs()}
    return x[share()], {name: part[share()] for name, part in everything.items()}


def cross_entropy(**fields: Any) -> aux.Term:
    return aux.Term(**({"loss": F.cross_entropy, "target": "y"} | fields))


def tap(place: int, **fields: Any) -> aux.Term:
    return cross_entropy(**({"tap": f"blocks.{place}", "head": nn.Linear(WIDTH, CLASSES), "weight": 0.5} | fields))


def each(prediction: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(prediction, target, reduction="none")


def summed(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    return F.cross_entropy(prediction, target, reduction="sum"), (target != -100).sum()


class Setup:
    """A network in a wrapper, an objective, and what to note down of them. inside: the network holds the objective."""

    def __init__(
        self, wrapper: str | None, objective: aux.Objective, seed: int = 1, inside: bool = False, **options: Any
    ) -> None:
        self.network = Network(**options).double()
        fill(self.network, 0)
        self.objective = objective.double()
        fill(self.objective, seed)
        self.modules = {"network": self.network, "objective": self.objective}
        if inside:
            self.network.objective = self.modules.pop("objective")
        self.model = wrap(self.network, wrapper)
        self.called: Callable[..., Any] = self.objective

    def __call__(self, progress: float | None = None, **more: Any) -> aux.Report:
        return self.called(self.model, *batch(), progress=progress, **more)

    def gradients(self) -> dict[str, Any]:
        return {name: tensor.tolist() for name, tensor in cells.gradients_of(self.modules).items()}

    def weights(self) -> dict[str, Any]:
        return {name: tensor.tolist() for name, tensor in cells.weights_of(self.modules).items()}


class Together(nn.Module):
    """A network and its objective in one module, which DDP or FSDP2 wraps."""

    def __init__(self, network: nn.Module, objective: aux.Objective) -> None:
        super().__init__()
        self.network, self.objective = network, objective

    def forward(self, model: Any, *data: Any, **more: Any) -> aux.Report:
        return self.objective(self.network, *data, **more)


def noted(report: aux.Report) -> dict[str, Any]:
    """The terms of a report."""
    return {n: {"value": t.value, "count": float(t.count), "weight": t.weight} for n, t in report.terms.items()}


def once(setup: Setup) -> dict[str, Any]:
    """One backward pass."""
    report = setup()
    report.total.backward()
    return {"report": noted(report), "gradients": setup.gradients()}


def several(setup: Setup, steps: int = 6) -> dict[str, Any]:
    """Steps of SGD; terms that have until(0.5) are silent in the second half of them."""
    optimizer = cells.sgd(setup.modules)
    reports = {}
    for step in range(steps):
        report = setup(step / steps)
        report.total.backward()
        optimizer.step()
        optimizer.zero_grad()
        reports[f"step {step}"] = noted(report)
    return {"report": reports, "weights": setup.weights()}


# The cases.


def taps(wrapper: str | None) -> Any:
    """Heads of the objective; a loss that is a mean, one with a value per element and a mask, one that is a pair."""
    terms = {"mean": tap(0), "each": tap(1, loss=each, mask="mask"), "pair": tap(0, loss=summed, weight=0.3)}
    return once(Setup(wrapper, aux.Objective(cross_entropy(), terms)))


def weighed(wrapper: str | None) -> Any:
    """A mask of numbers."""
    return once(Setup(wrapper, aux.Objective(cross_entropy(), {"each": tap(1, loss=each, mask="weights")})))


def returned(wrapper: str | None) -> Any:
    """A prediction that the model makes."""
    return once(Setup(wrapper, aux.Objective(cross_entropy(), {"inner": cross_entropy(weight=0.5)}), side=True))


def learned_weights(wrapper: str | None) -> Any:
    """A rule with parameters."""
    rule = aux.rules.Uncertainty(["main", "inner"])
    return once(Setup(wrapper, aux.Objective(cross_entropy(), {"inner": tap(0)}, rule=rule)))


def pieces(wrapper: str | None) -> Any:
    """Losses that are means, and pairs."""
    terms = {"mean": tap(0), "pair": tap(1, loss=summed)}
    return accumulated(Setup(wrapper, aux.Objective(cross_entropy(), terms)), wrapper)


def accumulated(setup: Setup, wrapper: str | None) -> Any:
    """Gradient accumulation; in one process the joint batch at once."""
    if wrapper is None:
        return once(setup)
    x, targets = batch()
    places = [slice(2), slice(2, 3), slice(3, None)]
    several = [(x[place], {name: part[place] for name, part in targets.items()}) for place in places]
    counts = setup.objective.counts(targets for _, targets in several)
    reports = []
    for x, targets in several:
        with gradients_at_home(setup.model, stay=len(reports) < len(several) - 1):
            reports.append(setup.objective(setup.model, x, targets, counts=counts))
            reports[-1].total.backward()
    return {"report": noted(aux.merge(reports)), "gradients": setup.gradients()}


class Scaled(nn.Module):
    """A loss with a parameter; NaN where no label counts."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return self.scale * F.cross_entropy(prediction, target)


def nothing_to_predict(wrapper: str | None) -> Any:
    """On rank 0; of pairs, means, and a mean whose loss has the only parameters."""
    own = cross_entropy(loss=Scaled(), select=lambda output: output, count=lambda y: (y != -100).sum())
    terms = {"pair": tap(0, loss=summed), "mean": tap(1), "own": own}
    setup = Setup(wrapper, aux.Objective(cross_entropy(loss=summed), terms))
    x, targets = batch()
    targets["y"][: SPLIT if rank() is None else None] = -100 if rank() != 1 else targets["y"]
    report = setup.objective(setup.model, x, targets)
    report.total.backward()
    return {"report": noted(report), "gradients": setup.gradients()}


def unknown_count(wrapper: str | None) -> Any:
    """A scalar from a function that may have left labels out."""
    return once(
        Setup(wrapper, aux.Objective(cross_entropy(), {"inner": tap(0, loss=lambda p, y: F.cross_entropy(p, y))}))
    )


UNTIL = aux.schedules.until(0.5, 0.5)


def silent_tap(wrapper: str | None) -> Any:
    return several(Setup(wrapper, aux.Objective(cross_entropy(), {"inner": tap(0, weight=UNTIL), "outer": tap(1)})))


def silent_prediction(wrapper: str | None) -> Any:
    """The model makes it all the same, and its parameters wait for a gradient."""
    return several(Setup(wrapper, aux.Objective(cross_entropy(), {"inner": cross_entropy(weight=UNTIL)}), side=True))


def silent_head_of_the_model(wrapper: str | None) -> Any:
    """The model has it for this term alone, and its parameters wait for a gradient."""
    terms = {"inner": tap(0, head="spare", weight=UNTIL)}
    return several(Setup(wrapper, aux.Objective(cross_entropy(), terms), spare=True))


def one_falls_silent(**fields: Any) -> aux.Objective:
    return aux.Objective(cross_entropy(), {"inner": tap(0, weight=UNTIL), "outer": tap(1)}, **fields)


def silent_inside(wrapper: str | None) -> Any:
    """The model holds its objective, as a LightningModule may."""
    return several(Setup(wrapper, one_falls_silent(), inside=True))


def silent_together(wrapper: str | None) -> Any:
    """One module has both, and is wrapped. DDP is found without `wrapped`."""
    setup = Setup(None, one_falls_silent(wrapped=wrapper == FSDP2))
    whole = Together(setup.network, setup.objective)
    setup.called = DistributedDataParallel(whole) if wrapper == DDP else whole
    if wrapper == FSDP2:
        fully_shard(whole, mesh=init_device_mesh("cpu", (WORLD,)))
    return several(setup)


def silent_together_with_a_rule(wrapper: str | None) -> Any:
    """With `wrapped`, a rule whose parameters fall silent with their terms, and predictions that the model returns. DDP
    alone: FSDP2 takes no scalar parameters."""
    rule = aux.rules.Uncertainty(["main", "inner", "outer"])
    terms = {"inner": cross_entropy(weight=UNTIL), "outer": tap(1, weight=UNTIL)}
    setup = Setup(None, aux.Objective(cross_entropy(), terms, rule=rule, wrapped=True), side=True)
    whole = Together(setup.network, setup.objective)
    setup.called = DistributedDataParallel(whole) if wrapper == DDP else whole
    return several(setup)


def silent_each_wrapped(wrapper: str | None) -> Any:
    """Model and objective are wrapped each by itself, as `accelerate.prepare(model, objective)` does."""
    setup = Setup(wrapper, one_falls_silent())
    if wrapper == DDP:
        setup.called = DistributedDataParallel(setup.objective)
    if wrapper == FSDP2:
        fully_shard(setup.objective, mesh=init_device_mesh("cpu", (WORLD,)))
    return several(setup)


def unused_outside(wrapper: str | None) -> Any:
    """DDP is told to look for unused parameters, and the model holds heads that it does not call."""
    setup = Setup(None, one_falls_silent(), inside=True)
    setup.model = DistributedDataParallel(setup.network, find_unused_parameters=True)
    return several(setup)


def learned_weights_in_pieces(wrapper: str | None) -> Any:
    """The penalty of the rule belongs to the whole batch, not to each micro-batch."""
    rule = aux.rules.Uncertainty(["main", "mean"])
    return accumulated(Setup(wrapper, aux.Objective(cross_entropy(), {"mean": tap(0)}, rule=rule)), wrapper)


def silent_under_learned_weights(wrapper: str | None) -> Any:
    """A parameter of the rule falls silent with its term."""
    rule = aux.rules.Uncertainty(["main", "inner", "outer"])
    terms = {"inner": tap(0, weight=UNTIL), "outer": tap(1)}
    return several(Setup(wrapper, aux.Objective(cross_entropy(), terms, rule=rule)))


def unlike_heads(wrapper: str | None) -> Any:
    """Every rank begins with other heads, and rank 0's are taken."""
    setup = Setup(wrapper, aux.Objective(cross_entropy(), {"inner": tap(0)}), seed=1 + (rank() or 0))
    return once(setup) | {"weights": setup.weights()}


def diagnosis(wrapper: str | None) -> Any:
    setup = Setup(wrapper, aux.Objective(cross_entropy(), {"inner": tap(0), "outer": tap(1)}))
    report = setup()
    found = aux.diagnose(report, aux.by_depth(setup.model, "blocks.*")).as_dict()
    report.total.backward()
    return {"diagnosis": found, "gradients": setup.gradients()}


def gate(wrapper: str | None) -> Any:
    """Three steps. The model's own parameters are partly shared and partly not; the heads are the objective's."""
    terms = {"inner": cross_entropy(weight=0.5), "outer": tap(1)}
    setup = Setup(wrapper, aux.Objective(cross_entropy(), terms), side=True)
    optimizer = cells.sgd(setup.modules)
    trunk = setup.network.trunk()
    others = [*setup.network.side.parameters(), *setup.network.last.parameters(), *setup.objective.parameters()]
    for _ in range(3):
        rows = aux.gradients.backward(setup(), trunk, aux.gradients.cosine_gate, others)
        optimizer.step()
        optimizer.zero_grad()
    return {"rows": {name: row.tolist() for name, row in rows.items()}, "weights": setup.weights()}


def not_finite(wrapper: str | None) -> Any:
    """One target is NaN, on rank 1."""
    numbers = tap(1, loss=F.mse_loss, target="real", head=nn.Sequential(nn.Linear(WIDTH, 1), nn.Flatten(0)))
    setup = Setup(wrapper, aux.Objective(cross_entropy(), {"inner": tap(0), "numbers": numbers}))
    x, targets = batch()
    if rank() != 0:
        targets["real"][-1] = torch.nan
    try:
        setup.objective(setup.model, x, targets)
    except aux.NotFiniteError as error:
        return {"term": error.term, "sentence": str(error)}
    return {}


def resharded_head(wrapper: str | None) -> Any:
    """A head inside a block, whose parameters are in pieces again when its term wants it."""
    return once(Setup(wrapper, aux.Objective(cross_entropy(), {"inner": tap(0, head="blocks.1.linear")})))


def detached_head(wrapper: str | None) -> Any:
    """A head that is sharded by itself, and is not to learn."""
    setup = Setup(wrapper, aux.Objective(cross_entropy(), {"inner": tap(0, detach_head=True)}))
    fully_shard(setup.objective.heads["inner"], mesh=init_device_mesh("cpu", (WORLD,)))
    return once(setup)


SAME: list[Case] = [
    taps, weighed, returned, learned_weights, pieces, nothing_to_predict, silent_tap, silent_prediction,
    silent_under_learned_weights, silent_head_of_the_model, learned_weights_in_pieces, unlike_heads,
    silent_inside, silent_together, silent_each_wrapped,
]  # fmt: skip
BY_TERM: list[Case] = [diagnosis, gate]
DDP_ALONE: list[Case] = [*BY_TERM, silent_together_with_a_rule]
CASES = {
    DDP: [*SAME, *DDP_ALONE, not_finite, unknown_count, unused_outside],
    FSDP2: [*SAME, *BY_TERM, not_finite, unknown_count, resharded_head, detached_head],
}


def outcome(action: Callable[[], Any]) -> dict[str, Any]:
    """What came of it, or the sentence that refused it."""
    try:
        return {"found": action()}
    except aux.AuxiliaryError as error:
        return {"refused": str(error)}


def cell(feature: features.Feature, setting: str) -> dict[str, Any]:
    """One cell of the table of support."""
    return outcome(lambda: {name: t.tolist() for name, t in cells.run(feature, setting, share()).items()})


# The two processes.


def work(rank: int, folder: Path) -> None:
    """What each of them does."""
    torch.set_num_threads(1)
    store, wait = f"file://{folder / 'store'}", datetime.timedelta(seconds=TIME)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=WORLD, timeout=wait)
    found = {}
    for wrapper, cases in CASES.items():
        for case in cases:
            found[f"{case.__name__} {wrapper}"] = outcome(partial(case, wrapper))
        for feature in features.FEATURES:
            found[f"{feature.name} {wrapper}"] = cell(feature, wrapper)
    dist.destroy_process_group()
    (folder / f"{rank}.json").write_text(json.dumps(found))


def folder_of_all(factory: pytest.TempPathFactory) -> Path:
    """One folder for all processes of pytest-xdist, so that the two ranks run once."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "two_ranks"
    folder.mkdir(exist_ok=True)
    return folder


def results(folder: Path) -> list[dict[str, Any]]:
    """What each rank found, by rank; from the folder, where somebody has asked before.

    Raises RuntimeError with what they wrote, where one of them failed, or both waited for each other.
    """
    places, failure = [folder / f"{rank}.json" for rank in range(WORLD)], folder / "failure"
    with FileLock(folder / "lock"):
        if not failure.exists() and not all(place.exists() for place in places):
            failed = start(folder)
            if failed:
                failure.write_text(failed)
    if failure.exists():
        raise RuntimeError(failure.read_text())
    return [json.loads(place.read_text()) for place in places]


def start(folder: Path) -> str:
    """Runs the two; says what went wrong, or nothing."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    processes = []
    for rank in range(WORLD):
        with (folder / f"{rank}.log").open("w") as log:
            command = [sys.executable, __file__, str(rank), str(folder)]
            processes.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment))
    end = time.monotonic() + TIME
    while any(process.poll() is None for process in processes) and time.monotonic() < end:
        if any(process.poll() for process in processes):
            break  # the other would wait for it in vain
        time.sleep(0.05)
    codes = [process.poll() for process in processes]
    for process in processes:
        process.kill()
        process.wait()
    if codes == [0] * WORLD:
        return ""
    logs = [(folder / f"{rank}.log").read_text() for rank in range(WORLD)]
    return f"the ranks ended with {codes} (None: waiting still, after at most {TIME} s)\n" + "\n".join(logs)


if __name__ == "__main__":
    warnings.simplefilter("error")
    work(int(sys.argv[1]), Path(sys.argv[2]))
    # As charladder's own command ends: threads of gloo may still want Python's lock.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
