"""Tiny models of transformers' configurations, data and trainers for them, and their losses written by hand."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    default_data_collator,
)

from charladder import auxiliary as aux
from charladder.auxiliary.integrations.transformers import (
    AuxiliaryTrainerMixin,
    model_loss,
    next_tokens,
    token_cross_entropy,
)

VOCABULARY, WIDTH, CLASSES, WEIGHT = 20, 8, 3, 0.3
Batch = dict[str, Any]


def tokenizer() -> PreTrainedTokenizerFast:
    special = ["[PAD]", "[UNK]", "[MASK]"]
    words = [*special, *(f"w{n}" for n in range(VOCABULARY - len(special)))]
    model = WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]")
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(model), pad_token="[PAD]", unk_token="[UNK]", mask_token="[MASK]"
    )


def texts(number: int) -> list[Batch]:
    """Sequences of different lengths, so that micro-batches have different numbers of predictions."""
    draw = torch.Generator().manual_seed(3)
    lengths = [3 + (5 * at) % 7 for at in range(number)]
    return [{"input_ids": torch.randint(3, VOCABULARY, (n,), generator=draw).tolist()} for n in lengths]


def images(number: int) -> list[Batch]:
    draw = torch.Generator().manual_seed(3)
    return [
        {"pixel_values": torch.randn(1, 8, 8, generator=draw), "labels": at % CLASSES if at % 4 else -100}
        for at in range(number)
    ]


@dataclass(frozen=True)
class Case:
    """A model, its data and its objective. tap: the module whose output the auxiliary term reads. shifted: position t
    predicts label t + 1."""

    make: Callable[..., nn.Module]
    data: Callable[[int], list[Batch]]
    collate: Callable[[list[Batch]], Batch]
    tap: str
    main: Callable[[], aux.Term]
    auxiliary: Callable[..., aux.Term]
    shifted: bool = False

    def objective(self, model: nn.Module, **fields: Any) -> aux.Objective:
        """With one head on an intermediate layer, built."""
        fields = {"head": aux.heads.normed(CLASSES if self.tap.startswith("vit") else VOCABULARY)} | fields
        term = self.auxiliary(**({"tap": self.tap, "weight": WEIGHT} | fields))
        objective = aux.Objective(self.main(), {"early": term})
        return objective.build(model, self.collate(self.data(2)))

    def by_hand(self, model: nn.Module, head: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """The sums of the main and of the auxiliary losses. Hidden states come from the model, not from a hook."""
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        output = model(**inputs, output_hidden_states=True)
        hidden = output.hidden_states[1]
        logits, early = output.logits, head(hidden[:, 0] if self.tap.startswith("vit") else hidden)
        if self.shifted:
            logits, early = logits[:, :-1], early[:, :-1]
        labels = self.labels(batch).flatten()
        main, early = (F.cross_entropy(x.flatten(0, -2), labels, reduction="sum") for x in (logits, early))
        return main, early

    def labels(self, batch: Batch) -> Tensor:
        return batch["labels"][:, 1:] if self.shifted else batch["labels"]

    def count(self, batch: Batch) -> int:
        return int((self.labels(batch) != -100).sum())


def bert(**fields: Any) -> BertForMaskedLM:
    sizes = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return BertForMaskedLM(BertConfig(**(sizes | dropout | {"intermediate_size": 16} | fields)))


def llama(**fields: Any) -> LlamaForCausalLM:
    sizes = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**(sizes | {"intermediate_size": 16, "pad_token_id": 0} | fields)))


def vit(**fields: Any) -> ViTForImageClassification:
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    image = {"image_size": 8, "patch_size": 4, "num_channels": 1, "num_labels": CLASSES}
    return ViTForImageClassification(ViTConfig(**(sizes | image | fields)))


def first_token(hidden: Any) -> Tensor:
    return (hidden if isinstance(hidden, Tensor) else hidden[0])[:, 0]


MASKED = DataCollatorForLanguageModeling(tokenizer(), mlm_probability=0.4, seed=1)
CAUSAL = DataCollatorForLanguageModeling(tokenizer(), mlm=False)
CASES = {
    "bert": Case(
        bert, texts, MASKED, "bert.encoder.layer.0",
        lambda: aux.Term(token_cross_entropy, select="logits"),
        lambda **fields: aux.Term(token_cross_entropy, **fields),
    ),
    "llama": Case(
        llama, texts, CAUSAL, "model.layers.0",
        lambda: aux.Term(token_cross_entropy, select="logits", target=next_tokens),
        lambda **fields: aux.Term(token_cross_entropy, target=next_tokens, **fields),
        shifted=True,
    ),
    "vit": Case(
        vit, images, default_data_collator, "vit.layers.0",
        model_loss,
        lambda **fields: aux.Term(F.cross_entropy, select=first_token, **fields),
    ),
}  # fmt: skip
LLAMA = CASES["llama"]


class MyTrainer(AuxiliaryTrainerMixin, Trainer):
    """Keeps the batches of every step."""

    def compute_loss(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if model.training:
            self.batches = getattr(self, "batches", {})
            self.batches.setdefault(self.state.global_step, []).append(inputs)
        return super().compute_loss(model, inputs, *args, **kwargs)


def arguments(folder: Path, **fields: Any) -> TrainingArguments:
    quiet = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "save_strategy": "no", "logging_steps": 1}
    training = {"per_device_train_batch_size": 2, "max_steps": 2, "lr_scheduler_type": "constant", "optim": "sgd"}
    return TrainingArguments(str(folder), **(quiet | training | fields))


def make_trainer(folder: Path, case: Case = LLAMA, examples: int = 14, term: Any = None, **fields: Any) -> MyTrainer:
    """term: fields of the auxiliary term. fields: training arguments."""
    torch.manual_seed(0)
    model = case.make().to(torch.float32 if fields.get("bf16") else torch.float64)
    objective = case.objective(model, **(term or {}))
    return MyTrainer(
        model=model,
        args=arguments(folder, **fields),
        train_dataset=case.data(examples),
        eval_dataset=case.data(4),
        data_collator=case.collate,
        auxiliary_objective=objective,
    )
