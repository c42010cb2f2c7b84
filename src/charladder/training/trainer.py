"""The trainer: network, objective, optimizers, sampler and counters of a run, and its optimizer step."""

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from charladder.auxiliary import Diagnosis, Report, merge
from charladder.auxiliary.distributed import is_sharded
from charladder.errors import UserError
from charladder.kernels import accelerate
from charladder.model import Dropout, Transformer
from charladder.objective import LanguageModelObjective, term_weights
from charladder.text import Windows
from charladder.text.windows import hash64
from charladder.training import distributed
from charladder.training.checkpoint import Checkpoint
from charladder.training.compilation import (
    compile_blocks,
    compile_losses,
    run_eagerly,
    should_capture_graphs,
    should_compile,
)
from charladder.training.config import TrainingConfig
from charladder.training.devices import choose_device, choose_precision
from charladder.training.diagnosis import compare_gradients, main_gradient_norms
from charladder.training.distributed import NetworkAndObjective
from charladder.training.health import Health, TrainingDiverged, restore_health
from charladder.training.identity import identity_metadata
from charladder.training.optimizers import make_optimizers, named_parameters, optimizer_tensors, restore_optimizers
from charladder.training.schedule import RunCounters, compute_progress, learning_rate_factor, step_share
from charladder.training.sparse_gradients import sparse_parameters
from charladder.training.step_graph import StepFunction, StepGraph


@dataclass(frozen=True)
class StepResult:
    """The result of a step. report: losses of the batch of all ranks. skipped: the reason, if the step was skipped."""

    report: Report
    progress: float
    learning_rate: float
    gradient_norm: float
    diagnosis: Diagnosis | None = None
    skipped: str | None = None


class Trainer:
    """Trains a network and its auxiliary heads, one step at a time.

    identity: the identity of the run, which is saved in its checkpoints. step_graph: captures and replays steps; None
    if graphs are not used. counters: steps, characters and seconds so far. Raises UserError if settings contradict each
    other, or are not possible on the device or with the number of processes.
    """

    def __init__(
        self,
        network: Transformer,
        objective: LanguageModelObjective,
        windows: Windows,
        settings: TrainingConfig,
        identity: str | None = None,
    ) -> None:
        if settings.cut_windows > windows.length:
            raise UserError(
                f"training.cut_windows is {settings.cut_windows}; windows of {windows.length} characters "
                "(model.context) cannot be cut into that many pieces"
            )
        self.settings, self.windows, self.identity = settings, windows, identity
        self.device = choose_device(settings.device)
        self.precision = choose_precision(settings.precision, self.device)
        self.network, self.objective = network.to(self.device), objective.to(self.device)
        # The order matters: `accelerate` replaces the classes of modules, FSDP2 derives its own from these and replaces
        # the parameters, and the optimizers must hold the new parameters. Blocks are compiled with the hooks of FSDP2.
        if self.device.type == "cpu":
            accelerate(self.network)
            accelerate(self.objective)  # the blocks of chained targets
        self.parallel: distributed.ParallelMode = distributed.choose_parallel_mode(settings, network)
        self.parallel_module = distributed.parallelize(
            NetworkAndObjective(self.network, self.objective), self.parallel, self.device
        )
        self.optimizers = make_optimizers(settings, self.network, self.objective.heads, self.precision)
        self._peak_learning_rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]
        self.is_compiled = should_compile(settings.compile, self.device)
        if self.is_compiled:
            compile_blocks(self.network)
            compile_blocks(self.objective)
            if self.device.type == "cuda":
                compile_losses(self.objective)
        can_capture = self.parallel == "none" and not sparse_parameters(network)
        if settings.compile == "graphs" and not can_capture:
            raise UserError(
                "training.compile = graphs needs a single process and no model.ngrams; set training.compile to blocks"
            )
        use_graph = (
            can_capture
            and settings.micro_batch in (0, settings.batch)
            and should_capture_graphs(settings.compile, self.device)
        )
        self.step_graph = StepGraph(self.parameters) if use_graph else None
        self._replayed_gradient_norm: float | None = None  # None if this step did not replay a graph
        # The position tables that the captured graph reads. Their ids are a part of the graph's key, so this reference
        # keeps them alive: no other table can get the same id.
        self._captured_tables: object = None
        self.counters, self.health = RunCounters(), Health()

    @property
    def progress(self) -> float:
        return compute_progress(self.settings, self.counters)

    def step(self) -> StepResult:
        """Performs one optimizer step. If the loss or the gradient is not finite or the loss is a spike, the step is
        skipped: the weights and the optimizer state do not change.

        Raises TrainingDiverged if more than training.skips of the last steps were skipped.
        """
        progress, start = self.progress, time.perf_counter()
        if not self.network.training:  # train() takes milliseconds, because it visits every module
            self.network.train()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self._diagnosis, self._replayed_gradient_norm = None, None
        report = distributed.with_global_total(merge(self.accumulate_gradients(progress)))
        pieces = self._window_pieces(progress)
        characters = self.settings.batch * pieces * (self.windows.length // pieces)
        factor = learning_rate_factor(self.settings, progress, self._step_share(characters, start))
        reason, norm = self._non_finite_terms(report), math.nan
        if reason is None:
            norm = self._clip_gradients()
            if not math.isfinite(norm):
                reason = f"the gradient's norm is {norm}, though every loss is finite"
        if reason is None:
            reason = self.health.find_spike(report.terms["main"].value, self.settings.spike)
        if reason is not None:
            self.health.record_skip(self.counters.step + 1, reason, self.settings.skips)
        else:
            for optimizer, rates in zip(self.optimizers, self._peak_learning_rates, strict=True):
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * factor
                optimizer.step()
        self.counters.step += 1
        self.counters.characters += characters
        return StepResult(report, progress, self.settings.learning_rate * factor, norm, self._diagnosis, reason)

    def _step_share(self, characters: int, start: float) -> float:
        """The share of the budget that the current step takes, the same on all ranks. start: time.perf_counter() at its
        beginning."""
        needs_time = self.settings.minutes and not self.counters.step
        seconds, _ = distributed.broadcast_and_any(time.perf_counter() - start) if needs_time else (0.0, False)
        return step_share(self.settings, self.counters, characters, seconds)

    def _clip_gradients(self) -> float:
        """Clips the gradient to the norm training.clip; returns its norm before, over all ranks."""
        dense = [p for p in self.parameters if p.grad is not None and not p.grad.is_sparse]
        limit = self.settings.clip or math.inf
        if self._replayed_gradient_norm is not None:
            if limit < self._replayed_gradient_norm + 1e-6:
                torch.nn.utils.clip_grads_with_norm_(dense, limit, torch.tensor(self._replayed_gradient_norm))
            return self._replayed_gradient_norm
        norm = torch.nn.utils.clip_grad_norm_(dense, limit)
        return float(distributed.full_tensors({"norm": norm})["norm"])

    @property
    def parameters(self) -> list[Any]:
        return [p for o in self.optimizers for group in o.param_groups for p in group["params"]]

    def _window_pieces(self, progress: float) -> int:
        """The number of pieces that each window is cut into."""
        return self.settings.cut_windows if progress < self.settings.cut_until else 1

    def accumulate_gradients(self, progress: float) -> Iterator[Report]:
        """Accumulates the gradient of one batch; yields the report of each micro-batch.

        Sums are divided by the count of the full batch. With several ranks each rank processes its part of the batch,
        and the gradient is that of the full batch.
        """
        pieces = self._window_pieces(progress)
        windows_BT, examples = self.windows.take(
            self.settings.batch, pieces, distributed.rank(), distributed.world_size()
        )
        size = (self.settings.micro_batch or self.settings.batch) * pieces
        for begin in range(0, len(windows_BT), size):
            micro_batch = self.to_device(torch.from_numpy(windows_BT[begin : begin + size]))
            dropout = self.make_dropout(examples[begin : begin + size])
            every = self.settings.diagnose_every
            should_diagnose = every > 0 and self.counters.step % every == 0 and begin == 0 and self.parallel != "fsdp"
            is_last = begin + size >= len(windows_BT)
            if self.step_graph is not None and should_diagnose:
                self.step_graph.free_memory_for_eager_step()
            elif self.step_graph is not None:
                replayed = self.step_graph(*self.graph_inputs(micro_batch, dropout, progress))
                if replayed is not None:
                    report, self._replayed_gradient_norm = replayed
                    yield report
                    continue
            autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == torch.bfloat16)

            def measure(
                network: Transformer, objective: LanguageModelObjective, windows: Tensor = micro_batch,
                dropout: Dropout | None = dropout, separate: bool = should_diagnose,
            ) -> tuple[Tensor, Report]:  # fmt: skip
                step, count = self.counters.step, len(windows_BT)
                report = objective(network, windows, progress, count, dropout, step, separate_gradients=separate)
                return report.total, report  # FSDP2 does not find tensors inside a Report

            with distributed.grad_sync(self.parallel_module, self.parallel, is_last):
                with autocast, run_eagerly(self.is_compiled and should_diagnose):
                    total, report = self.parallel_module(measure)
                if should_diagnose:
                    self._diagnosis = compare_gradients(report, self.network)
                total.backward()
                if should_diagnose and self._diagnosis is None:
                    self._diagnosis = main_gradient_norms(report, self.network)
            yield report

    def graph_inputs(
        self, windows_BT: Tensor, dropout: Dropout | None, progress: float
    ) -> tuple[Any, list[Tensor], StepFunction]:
        """The arguments of `step_graph` for a full batch: key, input tensors, and the function of both passes."""
        step, rate = self.counters.step, dropout.rate if dropout else 0.0
        network = self.network
        network.angles(0, self.windows.length, self.device)
        network.position_table(0, self.windows.length, network.embedding.weight)
        # A graph reads these tables at fixed addresses, so new tables need a new graph.
        self._captured_tables = (network.rotary, network.signal)
        table_ids = tuple(map(id, self._captured_tables))
        weights = term_weights(self.objective.settings, self.network.settings.layers, progress, step)

        def run(windows_BT: Tensor, *keys: Tensor) -> Report:
            with torch.autocast("cuda", torch.bfloat16, enabled=self.precision == torch.bfloat16):
                step_dropout = Dropout(rate, *keys) if keys else None
                report = self.objective(self.network, windows_BT, progress, len(windows_BT), step_dropout, step)
            report.total.backward()
            return report

        inputs = [windows_BT] if dropout is None else [windows_BT, dropout.keys_B]
        return (windows_BT.shape, tuple(weights.items()), table_ids), inputs, run

    def to_device(self, tensor: Tensor) -> Tensor:
        """`tensor` on the device of the run; the copy to a GPU is asynchronous, from pinned memory."""
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)

    def make_dropout(self, examples: np.ndarray) -> Dropout | None:
        rate = self.network.settings.dropout
        if not rate:
            return None
        keys_B = torch.from_numpy(hash64(self.settings.seed, examples).view(np.int64))
        return Dropout(rate, self.to_device(keys_B))

    def _non_finite_terms(self, report: Report) -> str | None:
        """The reason to skip the step if a term is not finite."""
        if math.isfinite(float(report.total)):
            return None
        names = [name for name, term in report.terms.items() if not math.isfinite(term.value)]
        return f"the loss is not finite in {', '.join(names) or 'the total alone'}"

    def predict(self, tokens_BT: Tensor, logits_to_keep: int) -> Tensor:
        """Logits of the last `logits_to_keep` positions, for evaluation. Under FSDP2 all ranks call it."""
        if self.parallel != "fsdp":
            return self.network(tokens_BT, logits_to_keep=logits_to_keep).logits_BTV
        return self.parallel_module(lambda network, _: network(tokens_BT, logits_to_keep=logits_to_keep).logits_BTV)

    def check_weights(self) -> None:
        """Raises TrainingDiverged if a weight is NaN or infinite on any rank."""
        non_finite = None
        for name, parameter in named_parameters(self.network, self.objective):
            local = cast(Any, parameter).to_local() if is_sharded(parameter) else parameter
            if not torch.isfinite(local).all():
                non_finite = name
        if distributed.broadcast_and_any(0.0, non_finite is not None)[1]:
            weights = non_finite or "of another rank"
            raise TrainingDiverged(f"step {self.counters.step}: the weights {weights} are not finite")

    def checkpoint(self) -> Checkpoint:
        state: dict[str, Any] = {
            "clock": asdict(self.counters),
            "sampler": self.windows.state_dict(),
            "seed": self.settings.seed,
            "health": self.health.state(),
            **identity_metadata(self.identity),
        }
        return Checkpoint(
            self.network.state_dict(),
            self.objective.state_dict(),
            optimizer_tensors(self.optimizers, self.network, self.objective.heads),
            state,
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Loads a checkpoint. Raises UserError if it is of another network."""
        try:
            distributed.load_full_state_dict(self.network, checkpoint.network)
            distributed.load_full_state_dict(self.objective, checkpoint.heads)
            restore_optimizers(self.optimizers, self.network, self.objective.heads, checkpoint.optimizer)
            self.health = restore_health(checkpoint.state.get("health"))
        except (RuntimeError, KeyError, ValueError, TypeError, AttributeError):
            raise UserError(
                f"the checkpoint of step {checkpoint.state['clock']['step']} does not fit the network that config.toml "
                "describes; restore the old config.toml"
            ) from None
        self.counters = RunCounters(**checkpoint.state["clock"])
        self.windows.load_state_dict(checkpoint.state["sampler"])
