"""The texts and metrics of the tasks for lm-evaluation-harness, without the harness."""

import importlib
import math
import runpy
import sys
from pathlib import Path

import pytest

from charladder.errors import UserError
from charladder.export.harness_tasks import texts

MODULE = "charladder.export.lm_eval"


def test_parts_are_whole_unicode_characters(tmp_path):
    path = tmp_path / "text.txt"
    text = "aé日😀" * 40  # 400 bytes; 5% are 20
    path.write_text(text, encoding="utf-8")
    data = text.encode()
    assert texts.read_text(str(path), "all", "utf-8", None) == text
    for limit in range(1, 24):
        cut = texts.read_text(str(path), "all", "utf-8", limit)
        assert text.startswith(cut) and limit - 3 <= len(cut.encode()) <= limit
    assert texts.read_text(str(path), "test", "utf-8", None).encode() == data[-20:]
    assert texts.read_text(str(path), "valid", "utf-8", None).encode() == data[-40:-20]
    longer = tmp_path / "longer.txt"
    longer.write_bytes(data + b"aa")  # the last 20 of 402 bytes begin with the second byte of é
    assert texts.read_text(str(longer), "test", "utf-8", None).encode() == (data + b"aa")[-19:]
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"abc\xff" * 10)
    with pytest.raises(UserError, match=r"bad.txt is not UTF-8 at byte 3"):
        texts.read_text(str(bad), "all", "utf-8", None)
    assert texts.read_text(str(bad), "all", "latin-1", None) == "abcÿ" * 10


def test_metrics_count_bytes_and_characters_and_a_prefix_costs_a_uniform_character():
    doc = {"text": "aé", "prefix_symbols": 0}
    assert texts.scored_text(doc) == "aé"
    assert texts.score_text(doc, (-6.0,)) == {"bits_per_byte": (-6.0, 3), "bits_per_unicode_character": (-6.0, 2)}
    doc["prefix_symbols"] = 256
    assert texts.scored_text(doc) == "é"
    nats, size = texts.score_text(doc, (-6.0,))["bits_per_byte"]
    assert nats == pytest.approx(-6 - math.log(256)) and size == 3


def test_missing_harness_is_named_with_its_extra(monkeypatch, capsys):
    for name in [name for name in sys.modules if name == MODULE or name.partition(".")[0] == "lm_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setattr(sys, "argv", ["lm_eval"])
    with pytest.raises(ImportError, match=r'pip install "charladder\[harness\]"'):
        importlib.import_module(MODULE)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(MODULE, run_name="__main__")
    printed = capsys.readouterr()
    assert ended.value.code == 2 and not printed.out
    assert printed.err.startswith("charladder: lm-evaluation-harness (the package lm_eval) is not installed;")


def test_page_lists_the_tasks_of_the_package():
    page = (Path(__file__).parents[2] / "docs" / "harness.md").read_text()
    folder = Path(texts.__file__).parent
    tasks = {
        line for file in folder.glob("*.yaml") for line in file.read_text().splitlines() if line.startswith("task:")
    }
    names = {line.removeprefix("task: ") for line in tasks}
    assert names == {"charladder_text", "charladder_text8", "charladder_enwik8"}
    assert all(f"`{name}`" in page for name in names)
