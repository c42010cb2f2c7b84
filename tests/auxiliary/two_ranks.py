"""Cases for two processes that train together (gloo), which one process runs with the joint batch.

`results` starts the two processes, once for a folder, and returns the results of each rank. A case is a function of a
wrapper (`DDP`, `FSDP2`, or None for one process) that returns plain numbers. The two ranks run all cases, and then the
cells of docs/support.md.
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
from auxiliary.cells import DDP, FSDP2, gradient_sync_off, wrap_parallel
from auxiliary.features import CLASSES, WIDTH, Captured, Network, fill_parameters
from charladder import auxiliary as aux

WORLD = 2
TIMEOUT_SECONDS = 900  # for all cases
RANK_0_EXAMPLES = 4  # rank 0 has the first four examples, rank 1 the other six
Case = Callable[[str | None], Any]


# Data, terms and training, for one process and for two.


def rank() -> int | None:
    return dist.get_rank() if dist.is_initialized() else None


def local_examples() -> slice:
    """The examples of this process in the batch."""
    return {None: slice(None), 0: slice(RANK_0_EXAMPLES), 1: slice(RANK_0_EXAMPLES, None)}[rank()]


def local_batch() -> tuple[Tensor, dict[str, Tensor]]:
    """The data of this process. Three of the four targets of rank 0 count, and four of the six of rank 1."""
    x, y = features.data()
    y[0] = y[5] = y[9] = -100
    mask = torch.arange(len(y)) % 3 == 0  # of rank 0: 2; of rank 1: 2
    mask[-1] = False
    real = torch.randn(len(y), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    everything = {"y": y, "mask": mask, "real": real, "weights": real.abs()}
    return x[local_examples()], {name: part[local_examples()] for name, part in everything.items()}


def cross_entropy(**fields: Any) -> aux.Term:
    return aux.Term(**({"loss": F.cross_entropy, "target": "y"} | fields))


def tap(place: int, **fields: Any) -> aux.Term:
    return cross_entropy(**({"tap": f"blocks.{place}", "head": nn.Linear(WIDTH, CLASSES), "weight": 0.5} | fields))


def loss_per_element(prediction: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(prediction, target, reduction="none")


def sum_and_count(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    return F.cross_entropy(prediction, target, reduction="sum"), (target != -100).sum()


class Setup:
    """A network in a wrapper, and an objective. inside: the objective is a submodule of the network."""

    def __init__(
        self, wrapper: str | None, objective: aux.Objective, seed: int = 1, inside: bool = False, **options: Any
    ) -> None:
        self.network = Network(**options).double()
        fill_parameters(self.network, 0)
        self.objective = objective.double()
        fill_parameters(self.objective, seed)
        self.modules = {"network": self.network, "objective": self.objective}
        if inside:
            self.network.objective = self.modules.pop("objective")
        self.model = wrap_parallel(self.network, wrapper)
        self.called: Callable[..., Any] = self.objective

    def __call__(self, progress: float | None = None, **more: Any) -> aux.Report:
        return self.called(self.model, *local_batch(), progress=progress, **more)

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


def report_numbers(report: aux.Report) -> dict[str, Any]:
    """The terms of a report, and their parts, as plain numbers."""
    reports = {f"{n} {part}": one for n, term in report.terms.items() for part, one in term.parts.items()}
    reports |= report.terms
    return {n: {"value": t.value, "count": float(t.count), "weight": t.weight} for n, t in reports.items()}


def one_backward(setup: Setup) -> dict[str, Any]:
    """One backward pass."""
    report = setup()
    report.total.backward()
    return {"report": report_numbers(report), "gradients": setup.gradients()}


def train_steps(setup: Setup, steps: int = 6) -> dict[str, Any]:
    """Steps of SGD; terms with the weight until(0.5) are inactive in the second half."""
    optimizer = cells.sgd(setup.modules)
    reports = {}
    for step in range(steps):
        report = setup(step / steps)
        report.total.backward()
        optimizer.step()
        optimizer.zero_grad()
        reports[f"step {step}"] = report_numbers(report)
    return {"report": reports, "weights": setup.weights()}


# The cases.


def taps(wrapper: str | None) -> Any:
    """Heads of the objective; a loss that is a mean, one with a value per element and a mask, one that is a pair."""
    terms = {
        "mean": tap(0),
        "each": tap(1, loss=loss_per_element, mask="mask"),
        "pair": tap(0, loss=sum_and_count, weight=0.3),
    }
    return one_backward(Setup(wrapper, aux.Objective(cross_entropy(), terms)))


def weighted_mask(wrapper: str | None) -> Any:
    """A floating-point mask."""
    return one_backward(
        Setup(wrapper, aux.Objective(cross_entropy(), {"each": tap(1, loss=loss_per_element, mask="weights")}))
    )


def returned_prediction(wrapper: str | None) -> Any:
    """A prediction that the model returns."""
    return one_backward(Setup(wrapper, aux.Objective(cross_entropy(), {"inner": cross_entropy(weight=0.5)}), side=True))


def captured(wrapper: str | None) -> Any:
    """The loop calls the model, inside `capture`. A prediction that the model returns and a tap fall inactive."""
    terms = {"inner": cross_entropy(weight=UNTIL), "outer": tap(1, weight=UNTIL)}
    return train_steps(Setup(wrapper, Captured(cross_entropy(), terms), side=True))


def captured_micro_batches(wrapper: str | None) -> Any:
    """`micro_batches`, where the loop calls the model."""
    terms = {"mean": tap(0), "pair": tap(1, loss=sum_and_count)}
    return accumulate_gradients(Setup(wrapper, Captured(cross_entropy(), terms)), wrapper)


def learned_weights(wrapper: str | None) -> Any:
    """A rule with parameters."""
    rule = aux.rules.Uncertainty(["main", "inner"])
    return one_backward(Setup(wrapper, aux.Objective(cross_entropy(), {"inner": tap(0)}, rule=rule)))


def micro_batches(wrapper: str | None) -> Any:
    """Micro-batches with losses that are means, and pairs."""
    terms = {"mean": tap(0), "pair": tap(1, loss=sum_and_count)}
    return accumulate_gradients(Setup(wrapper, aux.Objective(cross_entropy(), terms)), wrapper)


def parts_of_loss(prediction: Tensor, targets: dict[str, Tensor]) -> dict[str, Any]:
    """A value per element, a pair, and a mean over the elements of the mask: NaN where there is none."""
    kept = targets["mask"]
    gaps = (prediction[:, 0] - targets["real"])[kept]
    return {
        "class": loss_per_element(prediction, targets["y"]),
        "sum": (gaps.abs().sum(), kept.sum()),
        "mean": gaps.square().mean(),
    }


def count_parts(targets: dict[str, Tensor]) -> dict[str, Any]:
    kept = targets["mask"].sum()
    return {"class": (targets["y"] != -100).sum(), "sum": kept, "mean": kept}


def named_parts(wrapper: str | None) -> Any:
    """A loss with named parts. The first micro-batch of rank 1 has nothing to predict in two of them."""
    weights = {"class": 1.0, "sum": 5.0, "mean": 2.0}
    one = tap(0, loss=parts_of_loss, parts=weights, target=lambda targets: targets, count=count_parts)
    return accumulate_gradients(Setup(wrapper, aux.Objective(cross_entropy(), {"parts": one})), wrapper)


def undeclared_parts(wrapper: str | None) -> Any:
    one = tap(0, loss=parts_of_loss, target=lambda targets: targets, count=count_parts)
    return one_backward(Setup(wrapper, aux.Objective(cross_entropy(), {"parts": one})))


def load_balance(wrapper: str | None) -> Any:
    """A loss that is a product of two means: the fractions of tokens are summed over the ranks."""
    balance = aux.presets.load_balance(
        2, mask="mask", over_ranks=True, tap="blocks.0", head=nn.Linear(WIDTH, CLASSES), weight=0.5
    )
    return one_backward(Setup(wrapper, aux.Objective(cross_entropy(), {"balance": balance})))


def gradnorm(wrapper: str | None) -> Any:
    """Factors from the norms of gradients, which are those of all ranks together."""
    setup = Setup(wrapper, aux.Objective(cross_entropy(), {"inner": tap(0), "outer": tap(1)}))
    shared = setup.network.blocks[0].parameters()
    setup.objective.rule = aux.rules.GradNorm(["main", "inner", "outer"], shared).double()
    return train_steps(setup, steps=3)


def accumulate_gradients(setup: Setup, wrapper: str | None) -> Any:
    """Gradient accumulation; one process runs the joint batch at once."""
    if wrapper is None:
        return one_backward(setup)
    x, targets = local_batch()
    places = [slice(2), slice(2, 3), slice(3, None)]
    several = [(x[place], {name: part[place] for name, part in targets.items()}) for place in places]
    counts = setup.objective.counts(targets for _, targets in several)
    reports = []
    for x, targets in several:
        with gradient_sync_off(setup.model, stay=len(reports) < len(several) - 1):
            reports.append(setup.objective(setup.model, x, targets, counts=counts))
            reports[-1].total.backward()
    return {"report": report_numbers(aux.merge(reports)), "gradients": setup.gradients()}


class Scaled(nn.Module):
    """A loss with a parameter; NaN if no label counts."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return self.scale * F.cross_entropy(prediction, target)


def nothing_to_predict(wrapper: str | None) -> Any:
    """Rank 0 has no predictions: of pairs, means, and a loss with parameters."""
    own = cross_entropy(loss=Scaled(), select=lambda output: output, count=lambda y: (y != -100).sum())
    terms = {"pair": tap(0, loss=sum_and_count), "mean": tap(1), "own": own}
    setup = Setup(wrapper, aux.Objective(cross_entropy(loss=sum_and_count), terms))
    x, targets = local_batch()
    targets["y"][: RANK_0_EXAMPLES if rank() is None else None] = -100 if rank() != 1 else targets["y"]
    report = setup.objective(setup.model, x, targets)
    report.total.backward()
    return {"report": report_numbers(report), "gradients": setup.gradients()}


def unknown_count(wrapper: str | None) -> Any:
    """A scalar from a function that may have ignored labels."""
    return one_backward(
        Setup(wrapper, aux.Objective(cross_entropy(), {"inner": tap(0, loss=lambda p, y: F.cross_entropy(p, y))}))
    )


UNTIL = aux.schedules.until(0.5, 0.5)


def inactive_tap(wrapper: str | None) -> Any:
    return train_steps(Setup(wrapper, aux.Objective(cross_entropy(), {"inner": tap(0, weight=UNTIL), "outer": tap(1)})))


def inactive_prediction(wrapper: str | None) -> Any:
    """The model still computes the prediction, and DDP waits for gradients of its parameters."""
    return train_steps(
        Setup(wrapper, aux.Objective(cross_entropy(), {"inner": cross_entropy(weight=UNTIL)}), side=True)
    )


def inactive_head_of_the_model(wrapper: str | None) -> Any:
    """A head of the model that only this term uses; DDP waits for gradients of its parameters."""
    terms = {"inner": tap(0, head="spare", weight=UNTIL)}
    return train_steps(Setup(wrapper, aux.Objective(cross_entropy(), terms), spare=True))


def objective_with_inactive_term(**fields: Any) -> aux.Objective:
    return aux.Objective(cross_entropy(), {"inner": tap(0, weight=UNTIL), "outer": tap(1)}, **fields)


def inactive_inside(wrapper: str | None) -> Any:
    """The objective is a submodule of the model."""
    return train_steps(Setup(wrapper, objective_with_inactive_term(), inside=True))


def inactive_together(wrapper: str | None) -> Any:
    """One wrapped module has the network and the objective. DDP is detected without `wrapped`."""
    setup = Setup(None, objective_with_inactive_term(wrapped=wrapper == FSDP2))
    whole = Together(setup.network, setup.objective)
    setup.called = DistributedDataParallel(whole) if wrapper == DDP else whole
    if wrapper == FSDP2:
        fully_shard(whole, mesh=init_device_mesh("cpu", (WORLD,)))
    return train_steps(setup)


def inactive_together_with_a_rule(wrapper: str | None) -> Any:
    """With `wrapped`, a rule whose parameters are unused while their terms are inactive, and predictions that the model
    returns. DDP only: FSDP2 does not accept scalar parameters."""
    rule = aux.rules.Uncertainty(["main", "inner", "outer"])
    terms = {"inner": cross_entropy(weight=UNTIL), "outer": tap(1, weight=UNTIL)}
    setup = Setup(None, aux.Objective(cross_entropy(), terms, rule=rule, wrapped=True), side=True)
    whole = Together(setup.network, setup.objective)
    setup.called = DistributedDataParallel(whole) if wrapper == DDP else whole
    return train_steps(setup)


def inactive_each_wrapped(wrapper: str | None) -> Any:
    """Model and objective are wrapped separately, as `accelerate.prepare(model, objective)` does."""
    setup = Setup(wrapper, objective_with_inactive_term())
    if wrapper == DDP:
        setup.called = DistributedDataParallel(setup.objective)
    if wrapper == FSDP2:
        fully_shard(setup.objective, mesh=init_device_mesh("cpu", (WORLD,)))
    return train_steps(setup)


def unused_outside(wrapper: str | None) -> Any:
    """DDP with find_unused_parameters=True, and an objective inside the model."""
    setup = Setup(None, objective_with_inactive_term(), inside=True)
    setup.model = DistributedDataParallel(setup.network, find_unused_parameters=True)
    return train_steps(setup)


def learned_weights_in_pieces(wrapper: str | None) -> Any:
    """The penalty of the rule is added once for the full batch, not for each micro-batch."""
    rule = aux.rules.Uncertainty(["main", "mean"])
    return accumulate_gradients(Setup(wrapper, aux.Objective(cross_entropy(), {"mean": tap(0)}, rule=rule)), wrapper)


def inactive_under_learned_weights(wrapper: str | None) -> Any:
    """A parameter of the rule is unused while its term is inactive."""
    rule = aux.rules.Uncertainty(["main", "inner", "outer"])
    terms = {"inner": tap(0, weight=UNTIL), "outer": tap(1)}
    return train_steps(Setup(wrapper, aux.Objective(cross_entropy(), terms, rule=rule)))


def different_initial_heads(wrapper: str | None) -> Any:
    """Ranks begin with different heads; all must use those of rank 0."""
    setup = Setup(wrapper, aux.Objective(cross_entropy(), {"inner": tap(0)}), seed=1 + (rank() or 0))
    return one_backward(setup) | {"weights": setup.weights()}


def diagnosis(wrapper: str | None) -> Any:
    setup = Setup(wrapper, aux.Objective(cross_entropy(), {"inner": tap(0), "outer": tap(1)}))
    report = setup()
    found = aux.diagnose(report, aux.by_depth(setup.model, "blocks.*")).as_dict()
    report.total.backward()
    return {"diagnosis": found, "gradients": setup.gradients()}


def gate(wrapper: str | None) -> Any:
    """Three steps. Some parameters of the model are shared by all terms, and some are not."""
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
    x, targets = local_batch()
    if rank() != 0:
        targets["real"][-1] = torch.nan
    try:
        setup.objective(setup.model, x, targets)
    except aux.NotFiniteError as error:
        return {"term": error.term, "sentence": str(error)}
    return {}


def resharded_head(wrapper: str | None) -> Any:
    """A head inside a block, whose parameters FSDP2 has resharded before the head is called."""
    return one_backward(Setup(wrapper, aux.Objective(cross_entropy(), {"inner": tap(0, head="blocks.1.linear")})))


def detached_head(wrapper: str | None) -> Any:
    """A detached head that is sharded by itself."""
    setup = Setup(wrapper, aux.Objective(cross_entropy(), {"inner": tap(0, detach_head=True)}))
    fully_shard(setup.objective.heads["inner"], mesh=init_device_mesh("cpu", (WORLD,)))
    return one_backward(setup)


BOTH_WRAPPERS: list[Case] = [
    taps, weighted_mask, returned_prediction, learned_weights, micro_batches, named_parts, load_balance,
    nothing_to_predict, inactive_tap, inactive_prediction, inactive_under_learned_weights, inactive_head_of_the_model,
    learned_weights_in_pieces, different_initial_heads, inactive_inside, inactive_together, inactive_each_wrapped,
    captured, captured_micro_batches,
]  # fmt: skip
BY_TERM: list[Case] = [diagnosis, gate, gradnorm]
DDP_ONLY: list[Case] = [*BY_TERM, inactive_together_with_a_rule]
CASES = {
    DDP: [*BOTH_WRAPPERS, *DDP_ONLY, not_finite, unknown_count, undeclared_parts, unused_outside],
    FSDP2: [*BOTH_WRAPPERS, *BY_TERM, not_finite, unknown_count, resharded_head, detached_head],
}


def result_or_refusal(action: Callable[[], Any]) -> dict[str, Any]:
    """The result of a case, or the message of AuxiliaryError."""
    try:
        return {"found": action()}
    except aux.AuxiliaryError as error:
        return {"refused": str(error)}


def cell(feature: features.Feature, setting: str) -> dict[str, Any]:
    """One cell of docs/support.md."""

    def run() -> dict[str, Any]:
        return {name: t.tolist() for name, t in cells.run(feature, setting, local_examples()).items()}

    return result_or_refusal(run)


# The two processes.


def run_rank(rank: int, folder: Path) -> None:
    """Runs all cases on one rank, and writes its results."""
    torch.set_num_threads(1)
    store, wait = f"file://{folder / 'store'}", datetime.timedelta(seconds=TIMEOUT_SECONDS)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=WORLD, timeout=wait)
    found = {}
    for wrapper, cases in CASES.items():
        for case in cases:
            found[f"{case.__name__} {wrapper}"] = result_or_refusal(partial(case, wrapper))
        for feature in features.FEATURES:
            found[f"{feature.name} {wrapper}"] = cell(feature, wrapper)
    dist.destroy_process_group()
    (folder / f"{rank}.json").write_text(json.dumps(found))


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """One folder for all processes of pytest-xdist, so that the two ranks run once."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "two_ranks"
    folder.mkdir(exist_ok=True)
    return folder


def results(folder: Path) -> list[dict[str, Any]]:
    """The results of each rank; from the folder, if they have run before.

    Raises RuntimeError with their logs, if a rank failed or both hang.
    """
    places, failure = [folder / f"{rank}.json" for rank in range(WORLD)], folder / "failure"
    with FileLock(folder / "lock"):
        if not failure.exists() and not all(place.exists() for place in places):
            failed = run_processes(folder)
            if failed:
                failure.write_text(failed)
    if failure.exists():
        raise RuntimeError(failure.read_text())
    return [json.loads(place.read_text()) for place in places]


def run_processes(folder: Path) -> str:
    """Runs both ranks; returns their logs if they failed, and an empty string otherwise."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    processes = []
    for rank in range(WORLD):
        with (folder / f"{rank}.log").open("w") as log:
            command = [sys.executable, __file__, str(rank), str(folder)]
            processes.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment))
    end = time.monotonic() + TIMEOUT_SECONDS
    while any(process.poll() is None for process in processes) and time.monotonic() < end:
        if any(process.poll() for process in processes):
            break  # the other rank would wait until its timeout
        time.sleep(0.05)
    codes = [process.poll() for process in processes]
    for process in processes:
        process.kill()
        process.wait()
    if codes == [0] * WORLD:
        return ""
    logs = [(folder / f"{rank}.log").read_text() for rank in range(WORLD)]
    return f"the ranks ended with {codes} (None: still running, after at most {TIMEOUT_SECONDS} s)\n" + "\n".join(logs)


if __name__ == "__main__":
    warnings.simplefilter("error")
    run_rank(int(sys.argv[1]), Path(sys.argv[2]))
    # Without interpreter shutdown, as the charladder command: threads of gloo may still wait for the GIL.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
