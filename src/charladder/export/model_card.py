"""The model card of an exported network: README.md in the form of the Hugging Face Hub."""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from charladder import __version__
from charladder.export.layout import Precision
from charladder.run import Run
from charladder.shell_words import name_as_text, quote_path
from charladder.text.sources import is_url
from charladder.training.metrics import read_metrics

_MAX_NAMES = 10  # of files of the training text
_CARD = """\
---
# license: choose a licence, for example apache-2.0
library_name: transformers
pipeline_tag: text-generation
tags:
- character-level
---

# {name}

A character-level language model, trained with charladder {version}. {symbols} It has the layout of Qwen3, so
transformers needs no remote code:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({place!r})
model = AutoModelForCausalLM.from_pretrained({place!r})
prompt = tokenizer({prompt!r}, return_tensors="pt")
ids = model.generate(**prompt, max_new_tokens={length}, do_sample=True, top_k=0)
print(tokenizer.decode(ids[0]))
```

The network was trained with a context of {context} characters.

| | |
|---|---|
{rows}

## Training data

{data}

## Bits per character

{figures}

## Licence

The person who publishes this model chooses its licence, and puts it into the first lines of this file. Mind the licence
of the training data.
"""


def model_card(run: Run, parameters: int, precision: Precision, with_heads: bool, place: str) -> str:
    """The text of the card. place: the folder of the export, for the example."""
    settings, alphabet = run.recipe.model, run.alphabet
    symbols = "A token is a byte." if not alphabet.letters else f"A token is one of {alphabet.size} letters."
    rows = {
        "layers": settings.layers,
        "width": settings.width,
        "attention heads": settings.attention_heads,
        "feed-forward width": settings.feed_forward,
        "parameters": f"{parameters:,}",
        "precision of the weights": precision,
    }
    if with_heads:
        rows["auxiliary heads"] = "`heads.safetensors`, by layer and target: `layer2.target1.weight`"
    prompt = (alphabet.letters or "The ")[:4]
    return _CARD.format(
        name=name_as_text(run.path.resolve().name), version=__version__, symbols=symbols, place=place, prompt=prompt,
        length=max(1, min(200, settings.context - len(prompt))), context=settings.context,
        rows="\n".join(f"| {key} | {value} |" for key, value in rows.items()), data=_describe_data(run),
        figures=_describe_scores(run),
    )  # fmt: skip


def _describe_data(run: Run) -> str:
    """The training text, with the names of files but not their folders or the queries of URLs: they may be private."""
    text = run.recipe.text
    if not run.has_text:
        return "Not known: the network was imported."
    names = [_file_name(name) for name in text.data[:_MAX_NAMES]]
    more = f" and {len(text.data) - _MAX_NAMES:,} more" if len(text.data) > _MAX_NAMES else ""
    quoted = ", ".join(f"`{name}`" for name in names)
    files = "1 file" if text.files == 1 else f"{text.files:,} files"
    return (
        f"{quoted}{more}: {text.characters:,} characters in {files}, SHA-256 `{text.sha256}`.\n"
        f"The last characters are the test part (text.test = {text.test:g}), those before them the validation part\n"
        f"(text.valid = {text.valid:g}); the network was trained on the others."
    )


def _file_name(data: str) -> str:
    """The last part of the name of a file or a URL."""
    path = urlsplit(data).path if is_url(data) else data
    return Path(path).name or (str(urlsplit(data).hostname) if is_url(data) else data)


def _describe_scores(run: Run) -> str:
    """The recorded scores of these weights on the validation part, with the command that measures each again."""
    path = run.path / "metrics.jsonl"
    scores = [line for line in read_metrics(path) if "split" in line] if path.is_file() else []
    if run.best_step is not None:
        scores = [line for line in scores if line["step"] == run.best_step]
    elif scores:
        scores = [line for line in scores if line["step"] == scores[-1]["step"]]
    if not scores:
        return "None was recorded."
    return "\n".join(_describe_score(run, line) for line in scores)


def _describe_score(run: Run, line: dict[str, Any]) -> str:
    default = run.recipe.training.validation_characters
    characters = line.get("characters", default) if line.get("part") else None
    limit = "" if characters is None else f" --limit {characters}"
    weights = " --weights best" if run.weights == "best" else ""
    what = "the" if characters is None else f"the first {characters:,} characters of the"
    name = quote_path(name_as_text(run.path.resolve().name))
    return (
        f"- {line['bits_per_character']:.4f} on {what} {line['split']} part, after {line['step']:,} steps: "
        f"`charladder evaluate {name} --split {line['split']}{limit}{weights}`"
    )
