"""Recipes: the complete, typed settings of a run. They are read from TOML and overridden by dotted name."""

import dataclasses
import inspect
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from charladder.default_shape import SHAPE_FIELDS, choose_shape
from charladder.errors import UserError, suggest_names
from charladder.input_files import parse_toml, read_bytes
from charladder.model import ModelConfig
from charladder.model.config import MAX_SIZE
from charladder.objective import ObjectiveConfig
from charladder.training import TrainingConfig

_FORMAT_VERSION = 2


@dataclass(frozen=True)
class TextConfig:
    """The text, its alphabet and its parts. Fields that say "set when the run is created" are not for recipes.

    data: Corpus names, files, folders, glob patterns, URLs or `-` (standard input), in this order.
    encoding: Encoding of the files; all but `utf-8` are converted to UTF-8. With `utf-8` the bytes stay unchanged.
    alphabet: `bytes`; `letters` or `unicode`, learned from the text; `text8`, a to z and the space. `letters` has at
    most 256 characters, `unicode` at most 65,536.
    unknown: Characters outside the alphabet: raise an `error`, `replace` them by U+FFFD, or `drop` them.
    boundaries: Whether windows may `cross` from one file into the next, or `keep` to one file.
    order: Windows are drawn at `random`, or in `epochs` that cover the text once each.
    valid: Validation part, before the test part: characters, or a fraction below 1.
    test: Test part, at the end of the text: characters, or a fraction below 1.
    characters: Length of the text in characters; set when the run is created.
    sha256: SHA-256 of the text; set when the run is created.
    files: Number of files in the text; set when the run is created.
    letters: The characters of a learned alphabet; set when the run is created.
    """

    data: tuple[str, ...] = ("python",)
    encoding: str = "utf-8"
    alphabet: Literal["bytes", "letters", "unicode", "text8"] = "bytes"
    unknown: Literal["error", "replace", "drop"] = "error"
    boundaries: Literal["cross", "keep"] = "cross"
    order: Literal["random", "epochs"] = "random"
    valid: float = 0.05
    test: float = 0.05
    characters: int = 0
    sha256: str = ""
    files: int = 0
    letters: str = ""


@dataclass(frozen=True)
class Recipe:
    """The complete settings of a run. recipe: the name of the recipe."""

    recipe: str
    text: TextConfig
    model: ModelConfig
    objective: ObjectiveConfig
    training: TrainingConfig


SECTIONS = {
    "text": TextConfig,
    "model": ModelConfig,
    "objective": ObjectiveConfig,
    "training": TrainingConfig,
}
RecipeFields = dict[str, Any]


def field_types() -> dict[str, Any]:
    """The type of every recipe field, by dotted name."""
    return {
        f"{section}.{name}": kind for section, cls in SECTIONS.items() for name, kind in get_type_hints(cls).items()
    }


def field_help() -> dict[str, str]:
    """One line for every recipe field, by dotted name: the first sentence of its entry in the class docstring.

    An entry begins a line with `name: `, and ends at the next entry or empty line. Without docstrings (`python -OO`)
    the lines are empty.
    """
    lines = {}
    for section, cls in SECTIONS.items():
        doc, names = inspect.getdoc(cls) or "", [f.name for f in dataclasses.fields(cls)]
        entries = re.findall(rf"^({'|'.join(names)}): (.+?)(?=\n\n|\n(?:{'|'.join(names)}): |\Z)", doc, re.M | re.S)
        texts = {name: " ".join(text.split()) for name, text in entries}
        lines |= {f"{section}.{name}": texts.get(name, "").split(". ")[0].removesuffix(".") for name in names}
    return lines


# Names of the fields in other libraries.
_FIELD_ALIASES = {
    **dict.fromkeys(("lr", "max_lr", "base_lr"), "training.learning_rate"),
    **dict.fromkeys(("batch_size", "bs", "train_batch_size"), "training.batch"),
    **dict.fromkeys(("max_steps", "num_steps", "iters", "max_iters", "iterations"), "training.steps"),
    **dict.fromkeys(("wd", "decay_rate"), "training.weight_decay"),
    **dict.fromkeys(("grad_clip", "max_grad_norm", "clip_grad"), "training.clip"),
    **dict.fromkeys(("dtype", "amp", "fp16", "bf16"), "training.precision"),
    **dict.fromkeys(("lr_schedule", "lr_scheduler", "scheduler"), "training.decay"),
    **dict.fromkeys(("warmup_steps", "warmup_ratio"), "training.warmup"),
    **dict.fromkeys(("optim", "optimiser"), "training.optimizer"),
    **dict.fromkeys(("depth", "n_layer", "n_layers", "num_layers", "num_hidden_layers"), "model.layers"),
    **dict.fromkeys(("dim", "d_model", "n_embd", "hidden_size", "hidden"), "model.width"),
    **dict.fromkeys(("heads", "n_head", "n_heads", "num_heads", "num_attention_heads"), "model.attention_heads"),
    **dict.fromkeys(("seq_len", "block_size", "sequence_length", "ctx", "context_length"), "model.context"),
    **dict.fromkeys(("d_ff", "ffn_dim", "intermediate_size"), "model.feed_forward"),
}


def find_field(name: str) -> str | None:
    """The field for a `name` without section, with a wrong section, or from another library; None if there is none.

    >>> find_field("lr"), find_field("model.optimizer"), find_field("lenght")
    ('training.learning_rate', 'training.optimizer', None)
    """
    last = name.rpartition(".")[2].replace("-", "_").lower()
    matches = [dotted for dotted in field_types() if dotted.endswith(f".{last}")]
    return matches[0] if len(matches) == 1 else _FIELD_ALIASES.get(last)


def suggest_field(name: str) -> str:
    """The end of the message about an unknown field, which suggests a known one."""
    field = find_field(name)
    return f"; did you mean {field}?" if field else suggest_names(name, field_types())


def _recipe_names() -> list[str]:
    folder = resources.files("charladder") / "recipes"
    return sorted(Path(file.name).stem for file in folder.iterdir() if file.name.endswith(".toml"))


def load_recipe_fields(name: str) -> RecipeFields:
    """The fields that a recipe sets, by dotted name. name: a recipe of charladder, or the path of a TOML file.

    Raises UserError if the file is missing or not TOML, and for unknown fields and values of a wrong type.
    """
    if name.endswith(".toml"):
        path = Path(name)
        try:
            data = read_bytes(path)
        except OSError as error:
            raise UserError(f"recipe {name} cannot be read: {error.strerror}") from None
    elif name in _recipe_names():
        data = (resources.files("charladder") / "recipes" / f"{name}.toml").read_bytes()
    else:
        raise UserError(f"there is no recipe called {name!r}{suggest_names(name, _recipe_names())}")
    return parse_recipe_fields(data, name)


def parse_recipe_fields(data: bytes, where: str) -> RecipeFields:
    """The fields in TOML bytes, by dotted name. Raises UserError as fields_from_tables."""
    return fields_from_tables(parse_toml(data, where), where)


def fields_from_tables(tables: dict[str, Any], where: str) -> RecipeFields:
    """The fields in TOML tables, by dotted name, without the table [identity] of a run. where: name of the file.

    Raises UserError for another format version, unknown sections and fields, and values of a wrong type.
    """
    tables = {name: value for name, value in tables.items() if name != "identity"}
    version = tables.pop("format_version", _FORMAT_VERSION)
    if version != _FORMAT_VERSION:
        reader = "; charladder 0.1 reads it" if version == 1 else ""
        raise UserError(f"{where} has format_version {version}, and this version reads {_FORMAT_VERSION}{reader}")
    raw: RecipeFields = {"recipe": str(tables.pop("recipe", Path(where).stem))}
    types = field_types()
    for section, fields in tables.items():
        if section not in SECTIONS or not isinstance(fields, dict):
            raise UserError(f"{where} has the unknown section {section!r}{suggest_names(section, SECTIONS)}")
        for name, value in fields.items():
            dotted = f"{section}.{name}"
            if dotted not in types:
                raise UserError(f"{where} sets the unknown field {dotted!r}{suggest_field(dotted)}")
            raw[dotted] = convert_value(dotted, value, types[dotted])
    return raw


def convert_value(name: str, value: Any, type_: Any) -> Any:
    """`value` (from TOML, or a text from a command line) as `type_`. Raises UserError that names the field."""
    if get_origin(type_) is Literal:
        if value not in get_args(type_):
            choices = ", ".join(map(str, get_args(type_)))
            raise UserError(f"{name} is {value!r}; it must be one of {choices}")
        return value
    if isinstance(type_, UnionType):
        raise TypeError(f"recipe fields have one type each, and {name} has {type_}")
    booleans = {"true": True, "false": False}
    try:
        if type_ is bool and (isinstance(value, bool) or value in booleans):
            return value if isinstance(value, bool) else booleans[value]
        if type_ is int and not isinstance(value, bool | float) and abs(int(value)) < 1 << 64:
            return int(value)
        if type_ is float and not isinstance(value, bool):
            return float(value)
        if type_ is str and isinstance(value, str):
            return value
        if type_ == tuple[str, ...] and isinstance(value, str | list | tuple):
            texts = (value,) if isinstance(value, str) else tuple(value)
            if texts and all(isinstance(text, str) for text in texts):
                return texts
    except (TypeError, ValueError, OverflowError):
        pass
    expected = {bool: "true or false", int: "a whole number below 2^64", float: "a number", str: "text"}.get(
        type_, "a list of texts"
    )
    raise UserError(f"{name} is {value!r}; it must be {expected}")


def resolve(fields: RecipeFields) -> Recipe:
    """The complete recipe. Fields that are not set follow from the budget and `model.layers`, or have defaults.

    Raises UserError if fields contradict each other.
    """
    fields = _fill_defaults(fields)
    sections: dict[str, Any] = {}
    for section, cls in SECTIONS.items():
        values = {name.split(".", 1)[1]: value for name, value in fields.items() if name.startswith(f"{section}.")}
        missing = {f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING} - set(values)
        if missing:
            raise UserError(f"the recipe does not set {section}.{min(missing)}; set it")
        sections[section] = cls(**values)
    return Recipe(fields.get("recipe", "own"), **sections)


def shape_fields(recipe: Recipe) -> RecipeFields:
    """The values of the fields that may follow from the budget and the length of the text."""
    sections = recipe_tables(recipe)
    return {name: sections[section][field] for name in SHAPE_FIELDS.values() for section, field in [name.split(".")]}


def _fill_defaults(fields: RecipeFields) -> RecipeFields:
    """Adds the fields that follow from the budget and the length of the text (layers, width, context, batch, dropout),
    those that follow from the layers (width in multiples of 64, feed-forward), and other defaults."""
    fields, shape = dict(fields), choose_shape(fields)
    fields.setdefault("model.context", shape.context)
    fields.setdefault("model.dropout", shape.dropout)
    fields.setdefault("training.batch", shape.batch)
    fields.setdefault("training.validations", shape.validations)
    if "model.layers" not in fields:
        fields["model.layers"] = shape.layers
        fields.setdefault("model.width", shape.width)
    layers = fields["model.layers"]
    width = fields.setdefault("model.width", 64 * max(1, round(layers / 3)))
    fields.setdefault(
        "model.attention_heads",
        max(
            (h for h in range(1, min(width // 64, MAX_SIZE["attention_heads"]) + 1) if _are_heads_valid(width, h)),
            default=1,
        ),
    )
    paper = fields.get("model.block") == "paper"
    fields.setdefault("model.feed_forward", 4 * width if paper else 32 * max(1, round(width / 12)))
    fields.setdefault(
        "training.learning_rate",
        {"muon": 0.02, "adamw": 0.003, "momentum": 0.003}.get(fields.get("training.optimizer", "muon"), 0.003),
    )
    return fields


def _are_heads_valid(width: int, heads: int) -> bool:
    return width % heads == 0 and (width // heads) % 2 == 0


def recipe_tables(recipe: Recipe) -> dict[str, Any]:
    """The tables of config.toml: all fields of the recipe in sections, and the format version."""
    return {
        "format_version": _FORMAT_VERSION,
        "recipe": recipe.recipe,
        **{section: dataclasses.asdict(getattr(recipe, section)) for section in SECTIONS},
    }
