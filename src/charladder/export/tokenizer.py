"""The tokenizer of Hugging Face's tokenizers for an alphabet: one token for each symbol, without merges."""

from typing import Any

from charladder.errors import UserError
from charladder.text import Alphabet
from charladder.text.alphabet import REPLACEMENT

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
_ONE_CHARACTER = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False}
_BPE = {
    "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
    "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
}  # fmt: skip


def byte_symbols() -> list[str]:
    """The character that stands for each byte in byte-level BPE (GPT-2): printable bytes of Latin-1 for themselves, the
    others for the characters from U+0100 on, in order."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(0x100 + others.index(byte)) for byte in range(256)]


def tokenizer_tables(alphabet: Alphabet, unknown: str) -> dict[str, Any]:
    """The content of tokenizer.json. unknown: what happens to letters outside the alphabet, as in a recipe.

    With `error`, a letter outside the alphabet is an error of the tokenizer too; BPE has no such error, so the model is
    then WordLevel.
    """
    vocabulary = {symbol: number for number, symbol in enumerate(alphabet.letters or byte_symbols())}
    model: dict[str, Any] = {**_BPE, "vocab": vocabulary, "merges": []}
    before: dict[str, Any] | None = None if alphabet.letters else _BYTE_LEVEL
    if alphabet.letters and unknown == "error":
        model, before = {"type": "WordLevel", "vocab": vocabulary, "unk_token": ""}, _ONE_CHARACTER
    elif alphabet.letters and unknown == "replace":
        model["unk_token"] = REPLACEMENT
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": before,
        "post_processor": None,
        "decoder": {"type": "Fuse"} if alphabet.letters else _BYTE_LEVEL,
        "model": model,
    }


def parse_tokenizer(tables: Any, where: str) -> tuple[Alphabet, str]:
    """The alphabet of a tokenizer.json, and what happens to letters outside it.

    Raises UserError if a token is neither a byte nor a letter, or if the tokenizer changes the text before it.
    """
    wrong = UserError(
        f"{where} is not a tokenizer with one token for each byte or letter; only such folders can be imported, as "
        "`charladder export` writes them"
    )
    try:
        model, before = tables["model"], tables["pre_tokenizer"]
        tokens = dict(sorted(((number, token) for token, number in model["vocab"].items())))
        changes_text = tables["normalizer"] is not None or bool(model.get("merges"))
        added = {entry["id"]: entry["content"] for entry in tables.get("added_tokens") or []}
        is_byte_level = before is not None and before["type"] == "ByteLevel"
        if before is not None and (
            before["use_regex"] or before["add_prefix_space"] if is_byte_level else before != _ONE_CHARACTER
        ):
            raise wrong
        unknown = {"": "error", REPLACEMENT: "replace", None: "drop"}[model.get("unk_token")]
        changes_text |= _changes_tokens(tables, before, is_byte_level)
        letters = "".join(tokens.values())
    except (KeyError, TypeError, AttributeError):
        raise wrong from None
    if (
        changes_text
        or not tokens
        or len(tokens) != len(model["vocab"])
        or (unknown == "replace" and REPLACEMENT not in letters)
        or list(tokens) != list(range(len(tokens)))
        or any(len(token) != 1 for token in tokens.values())
        or any(tokens.get(number) != token for number, token in added.items())
        or (is_byte_level and list(tokens.values()) != byte_symbols())
    ):
        raise wrong
    return (Alphabet(), "error") if is_byte_level else (Alphabet(letters), unknown)


def _changes_tokens(tables: dict[str, Any], before: Any, is_byte_level: bool) -> bool:
    """Whether the model, the post-processor or the decoder does more than one token for each symbol.

    before: the pre-tokenizer. Raises KeyError, TypeError and AttributeError for other forms of a tokenizer.json.
    """
    model, after, decoder = tables["model"], tables.get("post_processor"), tables["decoder"]
    # WordLevel looks a whole word up, so something has to cut the text into letters before it.
    kinds = {"BPE", "WordLevel"} if before == _ONE_CHARACTER else {"BPE"}
    kind = None if after is None else after["type"]
    plain_after = kind in (None, "ByteLevel")
    if after is not None and kind == "TemplateProcessing":  # transformers adds an empty one
        plain_after = not after["special_tokens"] and len(after["single"]) == 1
    return (
        model["type"] not in kinds
        or any(model.get(name) for name in _BPE if name not in ("type", "unk_token"))
        or not plain_after
        or decoder["type"] != ("ByteLevel" if is_byte_level else "Fuse")
    )
