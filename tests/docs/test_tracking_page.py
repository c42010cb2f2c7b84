"""The tracker of docs/tracking.md works."""

import re
from pathlib import Path

from charladder.cli.main import main
from charladder.training.metrics import read_metrics

PAGE = (Path(__file__).parents[2] / "docs" / "tracking.md").read_text()


def test_the_example_receives_every_step(tmp_path, text_file, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    Path("csv_tracker.py").write_text(example)
    tiny = ["--layers", "2", "--width", "16", "--context", "16", "--batch", "2", "--steps", "2", "--run", "run"]
    assert main(["train", str(text_file), *tiny, "--track", "csv_tracker:CsvTracker"]) == 0
    terms = [
        (line["step"], line["terms"]["main"]["bits"])
        for line in read_metrics(Path("run/metrics.jsonl"))
        if "terms" in line
    ]
    assert Path("run/main.csv").read_text() == "".join(f"{step},{bits}\n" for step, bits in terms)
