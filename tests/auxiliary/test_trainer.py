"""AuxiliaryTrainerMixin in the Trainer of transformers: BERT, Llama and ViT, against losses written by hand."""

import copy
import gc
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import TrainerCallback

from auxiliary.hugging_face_models import (
    CASES,
    CAUSAL,
    LLAMA,
    VOCABULARY,
    WEIGHT,
    WIDTH,
    Case,
    MyTrainer,
    arguments,
    llama,
    make_trainer,
    texts,
)
from charladder import auxiliary as aux
from charladder.auxiliary.integrations.transformers import (
    HEADS_FILE,
    model_loss,
    next_tokens,
    token_cross_entropy,
)


@pytest.fixture(autouse=True, scope="module")
def frozen_heap():
    """accelerate collects garbage at the start of each training, which takes most of the time of a small one."""
    gc.freeze()
    yield
    gc.unfreeze()


class Gradients(TrainerCallback):
    """Keeps the gradients of every step, as the optimizer gets them."""

    def __init__(self, *modules: nn.Module) -> None:
        self.modules, self.steps = modules, []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        parameters = [p for module in self.modules for p in module.parameters()]
        self.steps.append([torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters])


def gradients_by_hand(trainer: MyTrainer, case: Case, model: nn.Module, batches: list[Any]) -> list[Tensor]:
    """Of main + WEIGHT * auxiliary, each the mean over all predictions of the micro-batches."""
    head = copy.deepcopy(trainer.auxiliary_objective.heads["early"])
    parameters = [*model.parameters(), *head.parameters()]
    count = sum(case.count(batch) for batch in batches)
    gradients = [torch.zeros_like(p) for p in parameters]
    for batch in batches:
        with trainer.accelerator.autocast():
            main, early = case.by_hand(model, head, batch)
            loss = main / count + WEIGHT * early / count
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        gradients = [whole if part is None else whole + part for whole, part in zip(gradients, found, strict=True)]
    return gradients


def check_gradients(folder: Path, case: Case, rtol: float, atol: float, **fields: Any) -> None:
    """Two steps, of four and of three micro-batches with different numbers of predictions."""
    trainer = make_trainer(folder, case, learning_rate=0.0, gradient_accumulation_steps=4, max_grad_norm=0, **fields)
    model = copy.deepcopy(trainer.model)
    found = Gradients(trainer.model, trainer.auxiliary_objective)
    trainer.add_callback(found)
    trainer.train()
    assert [len(batches) for batches in trainer.batches.values()] == [4, 3]
    for gradients, batches in zip(found.steps, trainer.batches.values(), strict=True):
        by_hand = gradients_by_hand(trainer, case, model, batches)
        for gradient, wanted in zip(gradients, by_hand, strict=True):
            torch.testing.assert_close(gradient, wanted, rtol=rtol, atol=atol)
        assert float(gradients[-1].abs().max()) > 0  # of the head's bias


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_the_total_written_by_hand(tmp_path, name):
    check_gradients(tmp_path, CASES[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["llama", *(pytest.param(name, marks=pytest.mark.slow) for name in ("bert", "vit"))])
def test_gradients_under_autocast(tmp_path, name):
    """Both round to bfloat16 in the same operations, and add the micro-batches in float32."""
    check_gradients(tmp_path, CASES[name], rtol=1e-5, atol=1e-6, bf16=True)


def test_every_term_is_logged_with_the_weight_of_the_progress(tmp_path):
    weight = aux.schedules.linear(1.0, 0.0)
    trainer = make_trainer(tmp_path, term={"weight": weight}, max_steps=4, learning_rate=0.1, max_grad_norm=0)
    trainer.train()
    logs = [line for line in trainer.state.log_history if "loss" in line]
    assert [line["early_weight"] for line in logs] == [1.0, 0.75, 0.5, 0.25]
    for line in logs:
        assert line["loss"] == pytest.approx(line["main_loss"] + line["early_weight"] * line["early_loss"], rel=1e-6)


def test_logs_are_means_over_all_predictions_since_the_last_one(tmp_path):
    trainer = make_trainer(tmp_path, learning_rate=0.0, logging_steps=2)
    model, head = copy.deepcopy(trainer.model), trainer.auxiliary_objective.heads["early"]
    trainer.train()
    (line,) = [line for line in trainer.state.log_history if "loss" in line]
    batches = [batch for batches in trainer.batches.values() for batch in batches]
    with torch.no_grad():
        mains, earlies = zip(*(LLAMA.by_hand(model, head, batch) for batch in batches), strict=True)
    count = sum(LLAMA.count(batch) for batch in batches)
    assert line["main_loss"] == pytest.approx(float(sum(mains) / count))
    assert line["early_loss"] == pytest.approx(float(sum(earlies) / count))


def test_a_silent_term_is_not_logged_and_has_no_gradient(tmp_path):
    trainer = make_trainer(tmp_path, term={"weight": aux.schedules.until(0.5, 1.0)})
    trainer.add_callback(found := Gradients(trainer.auxiliary_objective))
    trainer.train()
    assert [any(bool(gradient.any()) for gradient in step) for step in found.steps] == [True, False]
    first, second = (line for line in trainer.state.log_history if "loss" in line)
    assert "early_loss" in first and "early_loss" not in second


def test_heads_are_clipped_together_with_the_model(tmp_path):
    trainer = make_trainer(tmp_path, max_grad_norm=1e-3, learning_rate=0.0)
    found = Gradients(trainer.model, trainer.auxiliary_objective)
    trainer.add_callback(found)
    trainer.train()
    for gradients in found.steps:
        assert float(torch.cat([g.flatten() for g in gradients]).norm()) == pytest.approx(1e-3, rel=1e-3)
    trainer = make_trainer(tmp_path, max_grad_norm=0, learning_rate=0.0)
    trainer.add_callback(found := Gradients(trainer.model, trainer.auxiliary_objective))
    trainer.train()
    norms = [float(torch.cat([g.flatten() for g in gradients]).norm()) for gradients in found.steps]
    assert [line["grad_norm"] for line in trainer.state.log_history if "loss" in line] == pytest.approx(norms)


def test_heads_have_the_weight_decay_of_the_model(tmp_path):
    trainer = make_trainer(tmp_path, weight_decay=0.1, optim="adamw_torch")
    optimizer = trainer.create_optimizer()
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    found = {name: decay[id(p)] for name, p in trainer.auxiliary_objective.named_parameters()}
    assert found == {
        "heads.early.0.weight": 0.0, "heads.early.0.bias": 0.0, "heads.early.1.weight": 0.1, "heads.early.1.bias": 0.0,
    }  # fmt: skip


def dropped_out(shape: torch.Size) -> nn.Module:
    return nn.Sequential(nn.Dropout(0.2), nn.Linear(shape[-1], VOCABULARY))


def states(trainer: MyTrainer) -> dict[str, Tensor]:
    return {**trainer.model.state_dict(), **trainer.auxiliary_objective.state_dict()}


def assert_equal_bitwise(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_resumed_run_equals_an_uninterrupted_one_bitwise(tmp_path):
    """With dropout in the head, AdamW, a schedule, two micro-batches a step, and an epoch that ends within the run."""
    fields = {
        "max_steps": 6, "save_strategy": "steps", "save_steps": 4, "gradient_accumulation_steps": 2,
        "optim": "adamw_torch", "learning_rate": 0.01, "lr_scheduler_type": "linear", "weight_decay": 0.1,
    }  # fmt: skip
    term = {"head": dropped_out, "weight": aux.schedules.linear(1.0, 0.0)}
    trainer = make_trainer(tmp_path / "whole", term=term, **fields)
    trainer.train()
    checkpoint = tmp_path / "whole" / "checkpoint-4"
    assert not torch.equal(
        load_file(checkpoint / HEADS_FILE)["heads.early.1.weight"], trainer.auxiliary_objective.heads["early"][1].weight
    )
    shutil.copytree(checkpoint, tmp_path / "resumed" / checkpoint.name)
    resumed = make_trainer(tmp_path / "resumed", term=term, **fields)
    with torch.no_grad():
        for parameter in [*resumed.model.parameters(), *resumed.auxiliary_objective.parameters()]:
            parameter.add_(1.0)
    resumed.train(resume_from_checkpoint=True)
    assert_equal_bitwise(states(resumed), states(trainer))
    last = [line for line in trainer.state.log_history if "loss" in line][-1]
    assert last["early_loss"] == [line for line in resumed.state.log_history if "loss" in line][-1]["early_loss"]


def test_the_best_model_has_its_heads(tmp_path):
    trainer = make_trainer(
        tmp_path, max_steps=3, learning_rate=3.0, save_strategy="steps", save_steps=1, eval_strategy="steps",
        eval_steps=1, load_best_model_at_end=True,
    )  # fmt: skip
    trainer.train()
    best = Path(trainer.state.best_model_checkpoint)
    assert best.name != "checkpoint-3"
    assert_equal_bitwise(trainer.auxiliary_objective.state_dict(), load_file(best / HEADS_FILE))
    trainer.save_model(str(tmp_path / "final"))
    assert_equal_bitwise(load_file(tmp_path / "final" / HEADS_FILE), load_file(best / HEADS_FILE))


def test_evaluation_is_the_main_term_of_one_forward_pass(tmp_path):
    trainer = make_trainer(tmp_path, per_device_eval_batch_size=4, learning_rate=0.0)
    calls: list[int] = []
    trainer.model.model.layers[0].register_forward_hook(lambda *_: calls.append(1))
    batch = CAUSAL(texts(4))
    with torch.no_grad():
        main = LLAMA.by_hand(trainer.model, trainer.auxiliary_objective.heads["early"], batch)[0] / LLAMA.count(batch)
    calls.clear()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(float(main))
    assert len(calls) == 1
    output = trainer.predict(texts(4))
    assert output.predictions.shape == (4, batch["input_ids"].shape[1], VOCABULARY)
    assert len(calls) == 2
    assert not trainer.auxiliary_objective.training
    loss, outputs = trainer.compute_loss(trainer.model, batch, return_outputs=True)
    assert float(loss) == pytest.approx(float(main)) and outputs.logits.shape[-1] == VOCABULARY
    assert len(calls) == 3


def test_loss_that_the_model_returns_is_the_main_term(tmp_path):
    """transformers computes it in float32."""
    model = llama()
    objective = aux.Objective(model_loss(target=next_tokens)).attach(model)
    batches = [CAUSAL(texts(3)), CAUSAL(texts(5))]
    counts = objective.counts(batches)
    reports = []
    for batch in batches:
        with objective.capture():
            output = model(**batch)
        reports.append(objective.from_output(output, batch, counts=counts))
    logits = [model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits for batch in batches]
    losses = torch.cat([token_cross_entropy(x, next_tokens(b)).flatten() for x, b in zip(logits, batches, strict=True)])
    count = sum((batch["labels"][:, 1:] != -100).sum() for batch in batches)
    assert float(counts["main"]) == count
    torch.testing.assert_close(sum(report.total for report in reports), losses.sum() / count)


def test_columns_that_only_terms_read_are_not_given_to_the_model(tmp_path):
    """Also without labels, where no loss is computed. The first term has the labels for want of a target."""
    model = llama()
    length = aux.Term(nn.functional.l1_loss, tap="model.layers.0", select=mean_state, head=nn.Linear(WIDTH, 1))
    main = aux.Term(lambda logits, labels: logits.mean() + 0 * labels.sum(), select="logits", count=1)
    rows = [{"input_ids": torch.tensor([3, 4, 5]), "labels": torch.tensor([3, 4, 5]), "length": torch.ones(1)}] * 4
    trainer = MyTrainer(
        model=model, args=arguments(tmp_path), train_dataset=rows,
        auxiliary_objective=aux.Objective(main, {"length": length}),
    )  # fmt: skip
    trainer.train()
    assert "length_loss" in trainer.state.log_history[0]
    without = [{name: value for name, value in row.items() if name != "labels"} for row in rows]
    assert trainer.predict(without).predictions.shape == (4, 3, VOCABULARY)


def mean_state(hidden: Any) -> Tensor:
    return (hidden if isinstance(hidden, Tensor) else hidden[0]).mean(1)
