"""Files of another run and edits of config.toml are refused; a copied or moved run directory is accepted."""

import json
import re
import shutil
import tomllib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from caches import new_cache
from charladder.cli.main import main
from charladder.run import open_run
from charladder.training.best_weights import BEST_HEADS_FILE, BEST_NETWORK_FILE, BestWeights, save_best
from charladder.training.tensor_files import file_digest
from helpers import edit_config

TINY = ["--layers", "2", "--width", "16", "--context", "16", "--batch", "2", "--score", "none"]
EVALUATE = ["evaluate", "run", "--limit", "50"]
GENERATE = ["generate", "run", "--prompt", "A", "--length", "2"]
RESUME = ["train", "--resume", "run", "--score", "none"]
EXTEND = [*RESUME, "--extend", "--steps", "5"]


@pytest.fixture(scope="module")
def runs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of seeds 0 and 1, with best weights, and drafting heads in the first."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text").write_text("The ladder leans on the wall, and every layer is asked what it sees. " * 40)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CHARLADDER_CACHE", new_cache(folder / "cache"))
        for seed, name in enumerate(("run", "other")):
            assert main(["train", "text", "--run", name, *TINY, "--steps", "3", "--seed", f"{seed}"]) == 0
            run = open_run(Path(name))
            weights = run.load_network().state_dict(), run.load_objective().state_dict()
            save_best(Path(name), *weights, BestWeights(1, 7.5), run.identity)
        assert main(["refit", "run", "--steps", "1", "--batch", "1"]) == 0
    return folder


@pytest.fixture
def workdir(runs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("run", "other"):
        shutil.copytree(runs_folder / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").symlink_to(runs_folder / "text")
    return tmp_path


def file_contents(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("model.safetensors", EVALUATE),
        ("model.safetensors", GENERATE),
        ("model.safetensors", ["refit", "run", "--steps", "1"]),
        ("model.safetensors", ["train", "text", "--from", "run", "--run", "new", "--steps", "1"]),
        ("heads.safetensors", [*EVALUATE, "--by-layer"]),
        ("heads.safetensors", ["train", "text", "--from", "run", "--run", "new", "--steps", "1"]),
        (BEST_NETWORK_FILE, [*EVALUATE, "--weights", "best"]),
        (BEST_HEADS_FILE, [*EVALUATE, "--weights", "best", "--by-layer"]),
        ("checkpoints/3", RESUME),
        ("checkpoints/3", EXTEND),
        ("config.toml", RESUME),
        ("config.toml", EVALUATE),
        ("config.toml", GENERATE),
        ("config.toml", ["inspect", "run"]),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_file_of_another_run_is_refused(workdir, capsys, name, command):
    target, source = workdir / "run" / name, workdir / "other" / name
    if source.is_dir():
        shutil.rmtree(target)
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)
    before = file_contents(workdir / "run")
    assert main(command) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    shown = "environment.json" if name == "config.toml" else name
    assert f"run/{shown} was written by the run " in sentence
    ids = [tomllib.loads(Path(run, "config.toml").read_text())["identity"]["run"] for run in ("run", "other")]
    assert name == "config.toml" or all(run_id[:8] in sentence for run_id in ids)
    assert "remove the [identity] table from " in sentence and sentence.endswith("run/config.toml")
    assert file_contents(workdir / "run") == before and not Path("new").exists()


def test_older_checkpoint_of_another_run_is_refused(workdir, capsys):
    assert main(EXTEND) == 0
    shutil.rmtree("run/checkpoints/3")
    shutil.copytree("other/checkpoints/3", "run/checkpoints/3")
    capsys.readouterr()
    assert main([*EXTEND[:-1], "6"]) == 2
    assert "run/checkpoints/3 was written by the run" in capsys.readouterr().err
    assert Path("run/checkpoints/3").is_dir()


def test_files_of_another_run_are_accepted_without_identity_table(workdir, capsys):
    shutil.copy("other/heads.safetensors", "run/heads.safetensors")
    config = Path("run/config.toml")
    config.write_text(config.read_text().partition("[identity]")[0])
    assert main([*EVALUATE, "--by-layer"]) == 0
    assert main(EXTEND) == 0
    assert "[identity]" not in config.read_text()


def test_file_without_metadata_is_accepted(workdir):
    save_file(load_file("other/model.safetensors"), "run/model.safetensors")
    assert main(EVALUATE) == 0


def test_run_directory_can_be_copied_and_moved(workdir):
    shutil.copytree("run", "copy")
    Path("copy").rename("moved")
    assert main(["train", "--resume", "moved", "--extend", "--steps", "5", "--score", "none"]) == 0
    assert main(["generate", "moved", "--prompt", "A", "--length", "2"]) == 0
    assert open_run(Path("moved")).identity == open_run(Path("run")).identity


def test_edited_config_is_refused_until_its_digest_is_removed(workdir, capsys):
    config = Path("run/config.toml")
    original = config.read_text()
    config.write_text(original.replace("\nseed = 0\n", "\nseed = 7\n"))
    for command in (RESUME, EXTEND, EVALUATE, GENERATE):
        assert main(command) == 2
        (sentence,) = capsys.readouterr().err.splitlines()
        assert "run/config.toml was edited (training.seed is 7 and was 0 when the run began)" in sentence
        assert "remove the line sha256 from the [identity] table" in sentence
    config.write_text(original)
    edit_config(Path("run"), "\nseed = 0\n", "\nseed = 7\n")
    assert main(RESUME) == 0


def test_device_logging_and_layout_of_the_config_can_be_edited(workdir):
    config = Path("run/config.toml")
    content = config.read_text()
    assert content.count('device = "auto"') == content.count("log_every = 10\n") == 1
    content = content.replace('device = "auto"', '# this machine\ndevice = "cpu"').replace("log_every = 10\n", "\n")
    config.write_text(content.replace("\nseed = 0\n", "\nlog_every = 1\nseed =   0\n"))
    assert main(EXTEND) == 0
    assert open_run(Path("run")).recipe.training.device == "cpu"


def test_extend_updates_the_digest_of_the_config(workdir, capsys):
    assert main(EXTEND) == 0
    assert main(EVALUATE) == 0
    config = Path("run/config.toml")
    config.write_text(config.read_text().replace("\nsteps = 5\n", "\nsteps = 9\n"))
    capsys.readouterr()
    assert main(RESUME) == 2
    assert "training.steps is 9" in capsys.readouterr().err


@pytest.mark.parametrize("table", ["identity = 3\n", "[identity]\nrun = 3\n", "[identity]\n", '[identity]\nrun = ""\n'])
def test_invalid_identity_table_is_a_user_error(workdir, capsys, table):
    config = Path("run/config.toml")
    content = config.read_text().partition("[identity]")[0]
    config.write_text(content + table if table[0] == "[" else table + content)
    assert main(EVALUATE) == 2
    assert "the table [identity] of run/config.toml has no text `run`" in capsys.readouterr().err


def test_runs_without_identity_are_read_and_trained(workdir):
    """As an older version wrote them: config.toml, checkpoints and weights have no identity."""
    run = Path("run")
    (run / "config.toml").write_text((run / "config.toml").read_text().partition("[identity]")[0])
    environment = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(json.dumps({**environment, "run": None, "config": None}))
    for file in run.glob("*.safetensors"):
        save_file(load_file(file), file)
    for command in ([*EVALUATE, "--by-layer"], EXTEND):
        assert main(command) == 0
    assert open_run(run).identity is None


def test_identity_does_not_change_training(workdir):
    assert main(["train", "text", "--run", "again", *TINY, "--steps", "3", "--seed", "0"]) == 0
    for name in ("model", "heads"):
        first, second = (load_file(f"{run}/{name}.safetensors") for run in ("run", "again"))
        assert all(torch.equal(first[key], second[key]) for key in first | second)
    ids = {open_run(Path(run)).identity for run in ("run", "other", "again")}
    assert len(ids) == 3 and all(re.fullmatch("[0-9a-f]{32}", str(run_id)) for run_id in ids)


@pytest.mark.slow
def test_resuming_a_finished_run_keeps_the_digest_of_its_network(workdir):
    """Drafting heads and runs that started from this one refer to the network by its digest."""
    before = file_digest(Path("run/model.safetensors"))
    for _ in range(3):
        assert main(RESUME) == 0
        assert file_digest(Path("run/model.safetensors")) == before
    assert main([*GENERATE, "--draft", "targets"]) == 0


def test_config_of_a_run_can_be_the_recipe_of_a_new_run(workdir):
    assert main(["train", "text", "--recipe", "run/config.toml", "--run", "new", "--score", "none"]) == 0
    assert open_run(Path("new")).identity != open_run(Path("run")).identity
