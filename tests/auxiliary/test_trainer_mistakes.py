"""Mistakes in the use of AuxiliaryTrainerMixin: one sentence that says what to do."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Trainer

from auxiliary.hugging_face_models import CAUSAL, LLAMA, VOCABULARY, MyTrainer, arguments, llama, make_trainer, texts
from charladder import auxiliary as aux
from charladder.auxiliary.integrations.transformers import HEADS_FILE, next_tokens, token_cross_entropy


def built() -> tuple[nn.Module, aux.Objective]:
    model = llama()
    return model, LLAMA.objective(model)


def unbuilt(folder: Path) -> None:
    model = llama()
    term = aux.Term(token_cross_entropy, tap="model.layers.0", head=aux.heads.linear(VOCABULARY), target=next_tokens)
    MyTrainer(model=model, args=arguments(folder), auxiliary_objective=aux.Objective(LLAMA.main(), {"early": term}))


def optimizer_without_heads(folder: Path) -> None:
    model, objective = built()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    trainer = MyTrainer(
        model=model, args=arguments(folder), train_dataset=texts(4), data_collator=CAUSAL,
        auxiliary_objective=objective, optimizers=(optimizer, None),
    )  # fmt: skip
    trainer.train()


def saved_without_objective(folder: Path) -> None:
    trainer = make_trainer(folder)
    Trainer.save_model(trainer, str(folder / "checkpoint-1"))
    trainer.train(resume_from_checkpoint=str(folder / "checkpoint-1"))


def other_heads(folder: Path) -> None:
    make_trainer(folder).save_model(str(folder / "checkpoint-1"))
    make_trainer(folder, term={"head": aux.heads.linear(VOCABULARY)}).train(
        resume_from_checkpoint=str(folder / "checkpoint-1")
    )


def given(folder: Path, objective: Any = None, **more: Any) -> None:
    model, ours = built()
    if "model_init" not in more:
        more["model"] = model
    MyTrainer(args=arguments(folder, **more.pop("args", {})), auxiliary_objective=objective or ours, **more)


MISTAKES = {
    "no objective": (lambda folder: given(folder, llama()), "is of type LlamaForCausalLM; give an Objective"),
    "head not built": (unbuilt, r"term 'early': its head is still to be made; call objective.build\(model, batch\)"),
    "model_init": (lambda folder: given(folder, model_init=lambda: llama()), "model_init makes another one in train"),
    "label smoothing": (
        lambda folder: given(folder, args={"label_smoothing_factor": 0.1}), "the objective replaces the trainer's loss"
    ),
    "compute_loss_func": (
        lambda folder: given(folder, compute_loss_func=lambda *_, **__: 0), "the objective replaces the trainer's loss"
    ),
    "optimizer without heads": (optimizer_without_heads, "the trainer's optimizer lacks heads.early.0.weight of the"),
    "saved without objective": (saved_without_objective, f"has no {HEADS_FILE}; it was saved without an auxiliary"),
    "saved with other heads": (other_heads, "has other heads than the objective: Error"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_sentence(tmp_path, name):
    action, message = MISTAKES[name]
    with pytest.raises(aux.AuxiliaryError, match=message) as caught:
        action(tmp_path)
    assert "\n" not in str(caught.value)


def test_missing_library_is_named(monkeypatch):
    name = "charladder.auxiliary.integrations.transformers"
    monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModuleNotFoundError, match=r'needs transformers: pip install "charladder\[integrations\]"'):
        __import__(name)
