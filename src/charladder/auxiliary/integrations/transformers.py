"""Auxiliary losses in the Trainer of Hugging Face transformers.

class MyTrainer(AuxiliaryTrainerMixin, Trainer):
    pass

trainer = MyTrainer(model=model, args=args, train_dataset=data, auxiliary_objective=objective)
trainer.train()
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from charladder.auxiliary._counts import PartCounts
from charladder.auxiliary._errors import AuxiliaryError
from charladder.auxiliary._objective import Objective
from charladder.auxiliary._target_sources import FrozenTarget
from charladder.auxiliary._term import DEFAULT_TARGET, MAIN, Term
from charladder.auxiliary._wrappers import unwrap
from charladder.auxiliary.integrations._labels import model_loss, next_tokens, token_cross_entropy
from charladder.auxiliary.integrations._term_log import TermLog, mean

try:
    import safetensors.torch
    from transformers import Trainer, TrainerCallback, trainer_utils
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f'AuxiliaryTrainerMixin needs {error.name}: pip install "charladder[integrations]"', name=error.name
    ) from error

if TYPE_CHECKING:
    _Trainer = Trainer
else:
    _Trainer = object  # a mixin, which fits any subclass of Trainer

__all__ = ["HEADS_FILE", "AuxiliaryTrainerMixin", "model_loss", "next_tokens", "token_cross_entropy"]

HEADS_FILE = "auxiliary_heads.safetensors"
"""The file of the objective's heads, loss modules and rule, in every checkpoint and beside the saved model."""


class AuxiliaryTrainerMixin(_Trainer):
    """Trains with an objective in place of the loss that the model returns.

    auxiliary_objective: its targets are the batch, by the names of its columns: `Term(target="labels")`. A term without
    `target` has the column of its name, or else the labels. Columns that only terms read are kept, and not given to the
    model. Heads that are functions of a shape must be built before: `objective.build(model, batch)`.

    The progress is that of the trainer's state. Each term is divided by its own count over all micro-batches of the
    step and all ranks. The heads are in the optimizer, with weight decay as in the model, and their gradients are
    clipped together with the model's. Every checkpoint has the heads (HEADS_FILE); `resume_from_checkpoint` and
    `load_best_model_at_end` load them. The heads run under the trainer's autocast, in the training mode of the model.
    `trainer.log` gets, of every active term, `NAME_loss` (its mean over the predictions since the last log) and
    `NAME_weight`, and `NAME.PART_loss` of named parts. The loss of an evaluation is the main term, without its weight.

    For one device and for DDP. Raises AuxiliaryError for other ways to train on several devices, for heads that are not
    built, for arguments that would change the loss or the model (`label_smoothing_factor`, `compute_loss_func`,
    `model_init`), for an optimizer without the heads, and for a checkpoint without them.
    """

    auxiliary_objective: Objective
    loss_is_scaled_for_ga = True  # each term is divided by its count over all micro-batches, and by nothing else

    def __init__(self, *args: Any, auxiliary_objective: Objective, **kwargs: Any) -> None:
        _check_objective(auxiliary_objective)
        super().__init__(*args, **kwargs)
        _check_trainer(self)
        self.auxiliary_objective = auxiliary_objective.attach(cast("nn.Module", self.model))
        if not self.is_model_parallel:  # a head may have modules of the model, which then stay where they are
            auxiliary_objective.to(self.args.device)
        self._auxiliary_counts: dict[str, PartCounts] | None = None
        self._auxiliary_log = TermLog()
        self._auxiliary_columns = self._columns_of_terms()
        self._set_signature_columns_if_needed()
        self._signature_columns = [*(self._signature_columns or []), *sorted(self._auxiliary_columns)]
        self.add_callback(_AuxiliaryCallback(auxiliary_objective, self._auxiliary_log, self._load_heads))

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """In training the total of the objective, and in evaluation the main term. Runs the model once."""
        objective, state = self.auxiliary_objective, self.state
        if objective.training != model.training:
            objective.train(model.training)
        with objective.capture(model):
            outputs = model(**self._model_inputs(inputs))
        targets = self._auxiliary_targets(inputs)
        with self.accelerator.autocast():
            if model.training and torch.is_grad_enabled():
                progress = min(1.0, state.global_step / max(1, state.max_steps))
                report = objective.from_output(
                    outputs, targets, progress=progress, step=state.global_step, counts=self._auxiliary_counts
                )
                self._auxiliary_log.add(report)
                loss = report.total
            else:
                report = objective.from_output(outputs, targets, weights={MAIN: 1.0}, only=[MAIN])
                loss = mean(report.terms[MAIN]).float()
        return (loss, outputs) if return_outputs else loss

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """The micro-batches of a step. If they are several, the predictions of each term in them are counted."""
        batches, number = cast("tuple[list[Any], Any]", super().get_batch_samples(epoch_iterator, num_batches, device))
        targets = map(self._auxiliary_targets, batches)
        self._auxiliary_counts = self.auxiliary_objective.counts(targets) if len(batches) > 1 else None
        return batches, number

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As the trainer's. Without labels there is no loss, and the trainer gives all columns to the model."""
        if any(inputs.get(name) is None for name in self.label_names):
            inputs = self._model_inputs(inputs)
        return super().prediction_step(model, inputs, *args, **kwargs)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """The optimizer of the trainer, with the parameters of the objective in groups of their own."""
        objective, is_given = self.auxiliary_objective, self.optimizer is not None
        optimizer = super().create_optimizer(*args, **kwargs)
        known = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        new = {name: p for name, p in objective.named_parameters() if p.requires_grad and id(p) not in known}
        if new and is_given:
            raise AuxiliaryError(
                f"the trainer's optimizer lacks {next(iter(new))} of the auxiliary objective; make it from "
                "[*model.parameters(), *objective.parameters()]"
            )
        decayed = {f"heads.{name}" for name in self.get_decay_parameter_names(objective.heads)}
        for names, weight_decay in ((new.keys() & decayed, self.args.weight_decay), (new.keys() - decayed, 0.0)):
            group = [parameter for name, parameter in new.items() if name in names]
            if group:
                optimizer.add_param_group({"params": group, "weight_decay": weight_decay})
        return optimizer

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As the trainer's. Loads the heads of a checkpoint too."""
        folder: Any = resume_from_checkpoint
        if folder is True:
            folder = cast("Any", trainer_utils.get_last_checkpoint(self.args.output_dir))
        if folder:
            self._load_heads(folder)
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def save_model(self, output_dir: str | None = None, *args: Any, **kwargs: Any) -> None:
        """As the trainer's. Saves the heads beside the model."""
        self.auxiliary_objective.finish_checks()
        super().save_model(output_dir, *args, **kwargs)
        if self.args.should_save:
            state = self.auxiliary_objective.state_dict()
            # safetensors refuses views, and tensors that share memory.
            tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state.items()}
            folder: Any = output_dir or self.args.output_dir
            safetensors.torch.save_file(tensors, Path(folder) / HEADS_FILE)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As the trainer's. Adds the terms to the logs of training."""
        super().log({**logs, **self._auxiliary_log.pop()} if "loss" in logs else logs, *args, **kwargs)

    def _load_heads(self, folder: Any) -> None:
        path = Path(folder) / HEADS_FILE
        if not path.is_file():
            raise AuxiliaryError(f"{folder} has no {HEADS_FILE}; it was saved without an auxiliary objective")
        try:
            self.auxiliary_objective.load_state_dict(safetensors.torch.load_file(path))
        except RuntimeError as error:
            raise AuxiliaryError(
                f"{path} has other heads than the objective: {' '.join(str(error).split())}"
            ) from error

    def _columns_of_terms(self) -> set[str]:
        """The columns that terms read by name, without those that are the model's: its arguments, and the labels if it
        takes any arguments."""
        terms = self.auxiliary_objective.terms
        fields: list[Any] = _default_targets(terms)
        fields += self.label_names if fields else []
        for term in terms.values():
            fields += [term.target.inputs if isinstance(term.target, FrozenTarget) else term.target, term.mask]
        arguments = inspect.signature(unwrap(self.model).forward).parameters.values()
        of_model = {argument.name for argument in arguments}
        if any(argument.kind is argument.VAR_KEYWORD for argument in arguments):
            of_model |= {*self.label_names}
        return {field for field in fields if isinstance(field, str) and field not in of_model}

    def _model_inputs(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in batch.items() if name not in self._auxiliary_columns}

    def _auxiliary_targets(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The batch, which also has the labels under the names of terms that have no target and no column."""
        labels = batch.get(self.label_names[0]) if len(self.label_names) == 1 else None
        names = _default_targets(self.auxiliary_objective.terms) if labels is not None else []
        return {**dict.fromkeys(names, labels), **batch}

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        return cast("Any", super()._clip_grad_norm(nn.ModuleList([model, self.auxiliary_objective])))

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        return cast("Any", super()._get_grad_norm(nn.ModuleList([model, self.auxiliary_objective]), grad_norm))


class _AuxiliaryCallback(TrainerCallback):
    """What the trainer does with its model in a step, done with the heads."""

    def __init__(self, objective: Objective, log: TermLog, load_heads: Callable[[Any], None]) -> None:
        self.objective, self.log, self.load_heads = objective, log, load_heads

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.objective.zero_grad()
        self.log.pop()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.objective.zero_grad()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.objective.finish_checks()
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self.load_heads(state.best_model_checkpoint)


def _default_targets(terms: Mapping[str, Term]) -> list[str]:
    """The names under which terms without a target look for it in the batch."""
    return [term.target_name or name for name, term in terms.items() if term.target is DEFAULT_TARGET]


def _check_objective(objective: Any) -> None:
    if not isinstance(objective, Objective):
        raise AuxiliaryError(f"auxiliary_objective is of type {type(objective).__name__}; give an Objective")
    for name, term in objective.terms.items():
        if callable(term.head) and not isinstance(term.head, nn.Module):
            raise AuxiliaryError(
                f"term {name!r}: its head is still to be made; call objective.build(model, batch) before the trainer "
                "is made"
            )


def _check_trainer(trainer: Any) -> None:
    """Raises AuxiliaryError for a trainer that would train without the heads, or with another loss."""
    if not hasattr(Trainer, "loss_is_scaled_for_ga"):
        raise AuxiliaryError("AuxiliaryTrainerMixin needs transformers 5.19 or later")
    if trainer.model_init is not None:
        raise AuxiliaryError(
            "an objective is attached to one model, and model_init makes another one in train(); give the trainer "
            "model= instead"
        )
    if trainer.args.label_smoothing_factor or trainer.compute_loss_func is not None:
        raise AuxiliaryError(
            "the objective replaces the trainer's loss; leave label_smoothing_factor and compute_loss_func out, and "
            "write what they do as the loss of a Term"
        )
    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled or trainer.is_distributed_loading_by_transformers
    if sharded or trainer.get_tp_size() * trainer.get_cp_size() * trainer.get_sp_size() != 1:
        raise AuxiliaryError("AuxiliaryTrainerMixin does not support sharded models; train on one device, or with DDP")
    if trainer.args.n_gpu > 1:
        raise AuxiliaryError(
            "modules inside nn.DataParallel cannot be tapped, because it runs copies of the model; start a process for "
            "each GPU with torchrun"
        )
