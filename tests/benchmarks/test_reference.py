"""The reference script, and the benchmark of quality."""

import json
import subprocess
import sys

import pytest
import torch

from benchmarks import quality, reference


def test_reference_is_causal_and_starts_at_eight_bits():
    torch.manual_seed(0)
    model = reference.Transformer()
    x = torch.randint(0, 256, (2, 32))
    logits = model(x)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), x.flatten())
    assert loss.item() == pytest.approx(torch.tensor(256.0).log().item())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    changed = x.clone()
    changed[:, 20] = (x[:, 20] + 1) % 256
    torch.testing.assert_close(model(x)[:, :20], model(changed)[:, :20])


@pytest.mark.slow
def test_weights_are_loaded_with_their_settings(tmp_path, text_file):
    small = {"layers": "1", "width": "16", "heads": "2", "feed_forward": "32", "context": "8", "batch": "2"}
    options = [word for name, value in small.items() for word in (f"--{name.replace('_', '-')}", value)]
    weights = tmp_path / "weights.safetensors"
    command = [sys.executable, reference.__file__, str(text_file), "--train", "1000", "--seconds", "0.2", *options]
    subprocess.run([*command, "--out", str(weights)], check=True, stdout=subprocess.PIPE)
    settings = reference.load(str(weights)).settings
    assert settings == reference.Settings(1, 16, 2, 32, 8, 2)
    assert (settings.muon_rate, settings.adam_rate) == (0.02, 3e-3)


@pytest.mark.slow
def test_quality_report(text_file, capsys):
    text_file.write_bytes(text_file.read_bytes() * 4)
    arguments = [
        "--text",
        str(text_file),
        "--valid",
        "1000",
        "--test",
        "500",
        "--seconds",
        "2",
        "--seeds",
        "2",
        "--json",
    ]
    arguments += ["--ours", "ladder:1", "sprint:2"]
    assert quality.main(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result) >= {"ratios", "measured", "machine", "settings"}
    assert [len(runs) for runs in result["measured"]["runs"].values()] == [2, 2, 2]
    assert [gain["95_percent_half_width"] > 0 for gain in result["measured"]["lower_by_bits"].values()] == [True, True]
    assert result["machine"]["matrix_products_per_second_float32"] > 1e9
