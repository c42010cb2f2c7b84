"""Import: a folder of transformers that holds a byte-level Qwen3, as `export` writes it, becomes a run directory."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from charladder.errors import UserError
from charladder.export.layout import QWEN3, rename
from charladder.export.tokenizer import parse_tokenizer
from charladder.input_files import open_regular, read_bytes
from charladder.model import ModelConfig, Transformer
from charladder.model.norm import EPSILON
from charladder.recipe import Recipe, load_recipe_fields, resolve
from charladder.run import Run
from charladder.run_creation import create_imported_run, next_run_path
from charladder.text import Alphabet
from charladder.text.alphabet import MAX_UINT8_LETTERS, TEXT8_LETTERS
from charladder.training.identity import identity_metadata, new_identity
from charladder.training.tensor_files import file_digest, load_tensors, save_tensors

_NETWORK_FILE = "model.safetensors"
_SIZES = {
    "layers": "num_hidden_layers", "width": "hidden_size", "attention_heads": "num_attention_heads",
    "feed_forward": "intermediate_size", "context": "max_position_embeddings",
}  # fmt: skip
_FLOATS = "F32", "BF16", "F16"
_MAX_NUMBER = 1 << 31  # above every size and base in use
_MAX_SHOWN = 60  # characters of a value in a message


def import_hugging_face(folder: Path, path: Path | None = None) -> Run:
    """Creates a run directory with the network of a folder: `path`, or the first free `runs/imported-<n>`.

    The weights become float32. The run has no training text and no auxiliary heads. Raises UserError if the folder
    holds another kind of network, if a file of it is missing or damaged, or if `path` exists.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; give a folder with config.json and {_NETWORK_FILE}")
    settings, symbols = _read_config(folder / "config.json")
    alphabet, unknown = parse_tokenizer(_read_json(folder / "tokenizer.json"), str(folder / "tokenizer.json"))
    if alphabet.size != symbols:
        raise UserError(
            f"{folder / 'tokenizer.json'} has {alphabet.size} tokens, and config.json a vocab_size of {symbols}; they "
            "must be equal"
        )
    tensors = _load_network(folder / _NETWORK_FILE, settings, alphabet)
    source = {"imported": folder.resolve().name, "sha256": file_digest(folder / _NETWORK_FILE)}
    recipe = _imported_recipe(settings, alphabet, unknown)
    run = Run(path or next_run_path(recipe.recipe), recipe, identity=new_identity())
    metadata = identity_metadata(run.identity)

    def fill(created: Path) -> None:
        save_tensors(created / _NETWORK_FILE, tensors, metadata)
        save_tensors(created / "heads.safetensors", {}, metadata)

    return create_imported_run(run, source, fill, numbered=path is None)


def _imported_recipe(settings: ModelConfig, alphabet: Alphabet, unknown: str) -> Recipe:
    """The recipe `ladder` with this network and one loss, because the folder has no auxiliary heads."""
    kind = "letters" if alphabet.size <= MAX_UINT8_LETTERS else "unicode"
    if not alphabet.letters or alphabet.letters == TEXT8_LETTERS:
        kind = "text8" if alphabet.letters else "bytes"
    model = {f"model.{name}": value for name, value in vars(settings).items()}
    objective = {"objective.targets": 1, "objective.intermediate": False}
    text = {"text.alphabet": kind, "text.letters": alphabet.letters, "text.unknown": unknown, "text.data": ("none",)}
    return resolve({**load_recipe_fields("ladder"), **model, **objective, **text, "recipe": "imported"})


def _load_network(path: Path, settings: ModelConfig, alphabet: Alphabet) -> dict[str, torch.Tensor]:
    """The tensors of the network in float32, by their names in a Transformer. Names, shapes and dtypes are compared
    before memory is allocated."""
    names = QWEN3.of_network(settings.layers)
    if path.with_name(f"{_NETWORK_FILE}.index.json").exists() and not path.exists():
        raise UserError(
            f"{path.parent} has its weights in several files; save them in one (save_pretrained with max_shard_size)"
        )
    try:
        # safe_open reports a missing permission as a missing file, and waits at a pipe.
        open_regular(path, sys.maxsize).close()
        with safe_open(path, framework="pt") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
            found = {name: tuple(one.get_shape()) for name, one in slices.items()}
            dtypes = {name: one.get_dtype() for name, one in slices.items()}
        if len(found) < settings.layers:  # before thousands of layers are made, for a file without them
            raise UserError(f"{path} has {len(found)} tensors, and config.json describes {settings.layers} layers")
        with torch.device("meta"):
            expected = rename(Transformer(settings, alphabet.size).state_dict(), names)
        for name in sorted({*expected, *found}):
            shape = tuple(expected[name].shape) if name in expected else None
            if found.get(name) != shape:
                raise UserError(f"{path} {_difference(name, found.get(name), shape)}", rule="it is another network")
        other = next((name for name, dtype in dtypes.items() if dtype not in _FLOATS), None)
        if other is not None:
            raise UserError(f"{path} has {_shorten(other)} as {dtypes[other]}; it must be one of {', '.join(_FLOATS)}")
        tensors = load_tensors(path)
    except (OSError, SafetensorError) as error:
        problem = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(f"{path} cannot be read as safetensors: {problem}") from None
    ours = {theirs: name for name, theirs in names.items()}
    return rename({name: tensor.float() for name, tensor in tensors.items()}, ours)


def _difference(name: str, found: tuple[int, ...] | None, expected: tuple[int, ...] | None) -> str:
    """What is wrong with a tensor of these shapes; None for one that is not there. The name may be hostile."""
    name = _shorten(name)
    if found is None:
        return f"has no tensor {name}, which config.json describes"
    if expected is None:
        return f"has the tensor {name}, which a network as in config.json does not have"
    return f"has {name} with the shape {found}, and config.json describes {expected}"


def _read_config(path: Path) -> tuple[ModelConfig, int]:
    """The shape of the network in config.json, and its number of tokens. Raises UserError for another kind."""
    config = _read_json(path)
    if not isinstance(config, dict):
        raise UserError(f"{path} is no JSON object; it must be the config.json of a Qwen3")
    if config.get("model_type") != "qwen3":
        raise UserError(f"{path} has the model_type {_shorten(config.get('model_type'))}; only qwen3 can be imported")
    sizes = {ours: _whole_number(path, config, theirs) for ours, theirs in _SIZES.items()}
    settings = _model_config({**sizes, "rotary_base": _rotary_base(path, config)})
    required = {
        "hidden_act": "silu",
        "rms_norm_eps": EPSILON,
        "head_dim": settings.head_size,
        "num_key_value_heads": settings.attention_heads,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "use_sliding_window": False,
        "quantization_config": None,
    }
    defaults = {"head_dim": 128, "num_key_value_heads": 32}  # of transformers; the others are those required
    for name, value in required.items():
        given = config.get(name, defaults.get(name, value))
        if given != value:
            raise UserError(f"{path} has {name} = {_shorten(given)}; only a network with {value!r} can be imported")
    kinds = config.get("layer_types")
    if kinds is not None and kinds != ["full_attention"] * settings.layers:
        raise UserError(f"{path} has layer_types other than full_attention; such layers cannot be imported")
    return settings, _whole_number(path, config, "vocab_size")


def _model_config(fields: dict[str, Any]) -> ModelConfig:
    return ModelConfig(**fields)


def _rotary_base(path: Path, config: dict[str, Any]) -> float:
    rope = config.get("rope_parameters") or {"rope_theta": config.get("rope_theta")}
    rope = rope if isinstance(rope, dict) else {}
    base: Any = rope.get("rope_theta")
    scaled = config.get("rope_scaling") or rope.get("rope_type", "default")
    if type(base) not in (int, float) or scaled != "default":
        raise UserError(f"{path} has no rope_theta without scaling; only plain rotary positions can be imported")
    if not 1 < base < _MAX_NUMBER:
        raise UserError(f"{path} has rope_theta = {_shorten(base)}; it must be above 1 and below {_MAX_NUMBER:,}")
    return float(base)


def _whole_number(path: Path, config: dict[str, Any], name: str) -> int:
    value = config.get(name)
    if type(value) is not int or abs(value) >= _MAX_NUMBER:
        raise UserError(f"{path} has {name} = {_shorten(value)}; it must be a whole number below {_MAX_NUMBER:,}")
    return value


def _shorten(value: Any) -> str:
    """A value of a file that may be hostile, for a message."""
    shown = repr(value)
    return shown if len(shown) <= _MAX_SHOWN else f"{shown[:_MAX_SHOWN]}..."


def _missing_file(path: Path) -> str:
    if path.name == "tokenizer.json":
        return (
            f"{path.parent} has no tokenizer.json; copy it from the folder that `charladder export` wrote, or call "
            "tokenizer.save_pretrained, because a Trainer that was given no tokenizer saves none"
        )
    if (path.parent / "config.toml").is_file():
        return f"{path.parent} is a run directory already; import takes a folder of transformers"
    return f"{path.parent} has no {path.name}; give a folder that `charladder export --to hf` or transformers wrote"


def _read_json(path: Path) -> Any:
    try:
        return json.loads(read_bytes(path))
    except FileNotFoundError:
        raise UserError(_missing_file(path)) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}") from None
