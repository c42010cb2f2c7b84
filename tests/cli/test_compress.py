"""The commands `compress` and `decompress`."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from charladder.cli.main import main
from helpers import PROSE

pytest.importorskip("constriction")
TINY = ["--layers", "2", "--width", "16", "--context", "16", "--batch", "2", "--steps", "2", "--score", "none"]


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("text").write_text(PROSE * 10)
    Path("small").write_text(PROSE * 2)
    return tmp_path


def test_compress_and_decompress(workdir, capsys):
    assert main(["train", "text", *TINY, "--run", "run"]) == 0
    assert main(["evaluate", "run", "text", "--json"]) == 0
    expected = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert main(["compress", "run", "text", "--json"]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert result["mode"] == "network" and result["characters"] == expected["characters"] == len(PROSE) * 10
    bytes_by_evaluate = expected["bits_per_character"] * expected["characters"] / 8
    assert abs(result["compressed_bytes"] - bytes_by_evaluate) < 0.001 * bytes_by_evaluate + 100
    assert "get it back: charladder decompress run text.clz" in printed.err
    Path("text").rename("original")
    assert main(["decompress", "run", "text.clz"]) == 0
    assert "equal to the original" in capsys.readouterr().out
    assert Path("text").read_bytes() == Path("original").read_bytes()
    # mistakes that need a compressed file
    for arguments, message in (
        (["compress", "run", "text"], "text.clz exists and is not overwritten"),
        (["decompress", "run", "text.clz"], "text exists and is not overwritten"),
        (["compress", "run", "."], ". is not a regular file"),
        (["decompress", "text.clz", "new"], "was compressed with the network"),
        (["decompress", "run", "text", "new"], "was not written by charladder compress"),
    ):
        assert main(arguments) == 2
        assert message in capsys.readouterr().err
    assert not Path("new").exists() and not Path(".clz").exists()


@pytest.mark.slow
def test_online_in_another_process(workdir):
    """Training steps compute the same bits in every process."""
    for arguments in (["compress", "--online", "small"], ["decompress", "small.clz", "back"]):
        subprocess.run([sys.executable, "-m", "charladder", *arguments], check=True, capture_output=True)
    assert Path("back").read_bytes() == Path("small").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_killed_command_leaves_no_file(workdir, number):
    """SIGKILL leaves a hidden folder, which the next command with the same OUT replaces."""
    Path("long").write_text(PROSE * 200)
    command = [sys.executable, "-m", "charladder", "compress", "--online", "long", "out"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})
    end = time.monotonic() + 60
    while not list(Path().glob(".out.part/out")) and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == (-9 if number == signal.SIGKILL else 130)
    assert not Path("out").exists() and b"Traceback" not in error
    assert number == signal.SIGKILL or not list(Path().glob(".*.part"))
