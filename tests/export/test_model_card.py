"""The training data in a model card: names without what may be private."""

import dataclasses
from pathlib import Path

from charladder.export.model_card import model_card
from charladder.recipe import fields_from_tables, resolve
from charladder.run import Run


def test_names_without_folders_and_queries():
    recipe = resolve(fields_from_tables({"recipe": "ladder", "training": {"minutes": 1.0}}, "test"))
    data = (
        "/home/ann/diary.txt",
        "https://example.org/pages/a.txt?token=secret#part",
        "https://u:pw@example.org/",
        "x?y",
    )
    recipe = dataclasses.replace(recipe, text=dataclasses.replace(recipe.text, data=data, sha256="00", files=4))
    card = model_card(Run(Path("run"), recipe), 1, "float32", False, "hf")
    assert "`diary.txt`, `a.txt`, `example.org`, `x?y`" in card
    assert not any(word in card for word in ("ann", "secret", "pw"))
