"""The chain of training as a drafter: its drafts have the distributions of its modules, and runs find it."""

import json

import numpy as np
import pytest
import torch

from charladder.cli.main import main
from charladder.generation import GenerationLoop, SamplingParams
from charladder.generation.decoding_config import DecodingConfig
from charladder.generation.sequence import SequenceState, make_random
from charladder.generation.speculative import AutoDrafter, NoDrafter, TrainedChainDrafter
from charladder.generation.speculative.factory import make_drafter
from charladder.generation.speculative.no_drafter import no_drafts
from charladder.generation.speculative.trained_chain import TrainedChain
from charladder.inference.batched import BatchedRunner
from charladder.inference.factory import open_runner
from charladder.inference.runner import EagerRunner, ModelRunner
from charladder.kernels import native
from charladder.model import Transformer
from charladder.objective import LanguageModelObjective
from charladder.objective.chained_targets import chained_logits
from charladder.run import open_run
from charladder.serving.decoding_configs import DecodingConfigs
from generation.drafting import random_chain, random_network


class Recorded(TrainedChainDrafter):
    """Keeps the text before each draft, the drafts and their distributions."""

    def __init__(self, *given) -> None:
        super().__init__(*given)
        self.seen: list[tuple[list[int], list[int], np.ndarray]] = []

    def draft(self, sequences, limits):
        drafts, first = super().draft(sequences, limits), 0
        for sequence, count in zip(sequences, drafts.counts_S, strict=True):
            if count:
                rows = slice(first, first + count)
                text = [*sequence.cached_ids, sequence.last_id]
                self.seen.append((text, drafts.ids_M[rows], drafts.q_MV[rows]))
            first += count
        return drafts


def assert_drafts_are_those_of_the_modules(network: Transformer, objective: LanguageModelObjective, seen) -> None:
    for text, drafts, q_MV in seen:
        ids = torch.tensor([text + drafts])
        with torch.no_grad():
            final = network(ids[:, : len(text) - 1], output_hidden={network.settings.layers}).hidden
            states = objective.chained_states(network, final[network.settings.layers], ids, len(drafts) + 1)
            expected = [chained_logits(network, state)[0, -1].softmax(-1).numpy() for _, state in states]
        np.testing.assert_allclose(q_MV, np.stack(expected), atol=2e-5)


RUNNERS = {"fastest": open_runner, "batched": BatchedRunner, "eager": EagerRunner}


@pytest.mark.parametrize(
    ("runner_of", "model"),
    [
        ("fastest", {}),
        ("batched", {}),
        ("eager", {"block": "paper"}),
        ("eager", {"positions": "sinusoidal", "ngrams": 3}),
    ],
)
def test_drafts_have_the_distributions_of_the_modules(runner_of, model):
    """After prompts of several lengths, with accepted and rejected drafts, and past the context of 16."""
    network = random_network(7, 0.3, **model)
    objective, runner = random_chain(network, 4), RUNNERS[runner_of](network, 3, 16)
    chain = TrainedChain(network, [*objective.heads.values()], runner, torch.float32)
    drafter = Recorded(chain, SamplingParams())
    loop = GenerationLoop(runner, [[1], [2, 3, 4], [5] * 20], 40, SamplingParams(), 0, drafter)
    loop.run()
    assert loop.pass_characters > loop.passes and len(drafter.seen) > 40
    assert max(len(text) for text, _, _ in drafter.seen) == 15
    assert_drafts_are_those_of_the_modules(network, objective, drafter.seen)


class EverySecondTime(Recorded):
    """Drafts in every second pass, as the automatic drafter does when it changes to another candidate."""

    passes = 0

    def draft(self, sequences, limits):
        self.passes += 1
        return super().draft(sequences, limits) if self.passes % 2 else no_drafts(sequences, idle=True)


def test_characters_that_are_written_without_drafts_are_read_too():
    network = random_network(7, 0.3)
    objective, runner = random_chain(network, 3), open_runner(network, 1, 16)
    sampling = SamplingParams(coupled=True)
    drafter = EverySecondTime(TrainedChain(network, [*objective.heads.values()], runner, torch.float32), sampling)
    loop = GenerationLoop(runner, [[1, 2, 3]], 80, sampling, 0, drafter)
    lengths = []
    while loop.active:
        before, loop.seconds_per_pass = len(loop.sequences[0].ids), 0.25  # three characters in one call of C
        loop.step(0.75)
        lengths.append(len(loop.sequences[0].ids) - before)
    assert len(drafter.seen) > 8 and lengths.count(3) > 8
    assert_drafts_are_those_of_the_modules(network, objective, drafter.seen)


def test_a_sequence_that_is_seen_late_is_drafted_from_there_on():
    """The service calls `begin` when drafting begins."""
    network = random_network(7, 0.3)
    runner = open_runner(network, 1, 16)
    loop = GenerationLoop(runner, [[1, 2, 3]], 12, SamplingParams())
    (sequence,) = loop.sequences
    chain = TrainedChain(network, [*random_chain(network, 3).heads.values()], runner, torch.float32)
    drafter = TrainedChainDrafter(chain, SamplingParams())
    drafter.begin([sequence])
    assert sequence.normed_states is not None and len(sequence.normed_states) == 1
    drafts = drafter.draft([sequence], [2])
    assert drafts.counts_S == [2] and np.allclose(drafts.q_MV.sum(1), 1)


def test_modules_that_give_nan_draft_nothing():
    network = random_network(7, 0.3)
    objective = random_chain(network, 3)
    with torch.no_grad():
        objective.heads["layer3_target3"].projection.weight.fill_(float("nan"))
    runner = open_runner(network, 1, 16)
    drafter = TrainedChainDrafter(
        TrainedChain(network, [*objective.heads.values()], runner, torch.float32), SamplingParams()
    )
    loop = GenerationLoop(runner, [[1]], 8, SamplingParams(), 0, drafter)
    loop.run()
    assert len(loop.sequences[0].ids) == 8 and loop.accepted_per_pass == 1


@pytest.mark.skipif(native.library(torch.bfloat16) is None, reason="needs a C compiler")
def test_bfloat16_layers_draft_nearly_the_same():
    network = random_network(7, 0.3)
    modules, drafted = [*random_chain(network, 3).heads.values()], []
    for dtype in (torch.float32, torch.bfloat16):
        runner = open_runner(network, 1, 16)
        loop = GenerationLoop(runner, [[1, 2, 3]], 12, SamplingParams(coupled=True))
        drafter = TrainedChainDrafter(TrainedChain(network, modules, runner, dtype), SamplingParams(coupled=True))
        drafter.begin(loop.sequences)
        drafted.append(drafter.draft(loop.sequences, [1]).q_MV)
    np.testing.assert_allclose(*drafted, atol=0.03)
    assert not np.array_equal(*drafted)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chained")
    text = folder / "text.txt"
    text.write_text("the cat sat on the mat and " * 60)
    options = "--layers 2 --width 32 --context 16 --batch 8 --steps 30 --objective.targets 4"
    options += " --objective.target_heads chained --device cpu --precision float32 --score none"
    assert main(["train", str(text), *options.split(), "--run", str(folder / "run")]) == 0
    return folder / "run"


def test_a_run_drafts_with_its_chain_without_refit(run, capsys):
    texts = []
    for options in ("none", "auto", "targets"):
        arguments = [
            "--prompt",
            "the c",
            "--length",
            "60",
            "--draft",
            options,
            "--seed",
            "3",
            "--json",
            "--temperature",
            "0",
        ]
        capsys.readouterr()
        assert main(["generate", str(run), *arguments, "--device", "cpu"]) == 0
        result = json.loads(capsys.readouterr().out)
        texts.append(result["text"])
        if options == "targets":
            assert result["draft"] == "targets" and result["accepted_per_pass"] > 1.2
    assert texts[0] == texts[1] == texts[2]
    opened = open_run(run)
    runner: ModelRunner = open_runner(opened.load_network(), 1)
    auto = make_drafter("auto", opened, runner, SamplingParams(coupled=True))
    assert isinstance(auto, AutoDrafter)
    assert [(c.drafter.name, c.length) for c in auto.candidates][:3] == [("none", 0), ("targets", 2), ("targets", 3)]
    assert isinstance(auto.candidates[1].drafter, TrainedChainDrafter)


def test_the_service_drafts_with_one_chain_for_all_configs(run):
    opened = open_run(run)
    network = opened.load_network()
    runner = open_runner(network, 2)
    configs = DecodingConfigs(opened, network, runner, torch.float32, lambda: 1)
    assert {"auto", "targets"} <= set(configs.available_drafters())
    one, other = (configs.get(SamplingParams(top_k=k, coupled=True), "targets") for k in (0, 2))
    assert isinstance(one.drafter, TrainedChainDrafter) and isinstance(other.drafter, TrainedChainDrafter)
    assert one.drafter.chain is other.drafter.chain
    loop, prompt = GenerationLoop(runner), [*b"the c"]
    sequences = [SequenceState(slot, prompt, 20, make_random(0, slot, prompt), True) for slot in range(2)]
    loop.add(sequences, [one, other])
    loop.run()
    assert loop.accepted_per_pass > 1
    for config, sequence in zip((one, other), sequences, strict=True):
        alone = GenerationLoop(runner)
        again = SequenceState(0, prompt, 20, make_random(0, sequence.slot, prompt), True)
        alone.add([again], [DecodingConfig(config.sampling, NoDrafter())])
        alone.run()
        assert again.ids == sequence.ids


def test_commands_know_chained_targets(run, capsys, tmp_path):
    for arguments in (["evaluate", str(run), "--by-layer", "--json"], ["inspect", str(run), "--json"]):
        capsys.readouterr()
        assert main(arguments) == 0
        result = json.loads(capsys.readouterr().out)
        if arguments[0] == "evaluate":
            terms = [row["term"] for row in result["by_layer"]]
            assert terms == ["layer1.target1", "main", "layer2.target2", "layer2.target3", "layer2.target4"]
        else:
            opened = open_run(run)
            counts = [
                sum(p.numel() for p in module.parameters())
                for module in (opened.load_network(), opened.load_objective())
            ]
            assert result["parameters"] == {"training": sum(counts), "inference": counts[0]}
    recipe = tmp_path / "chained.toml"
    recipe.write_text('[model]\nlayers = 2\n[objective]\ntargets = 2\ntarget_heads = "chained"\n')
    capsys.readouterr()
    assert main(["explain", "ABCD", "--recipe", str(recipe), "--json"]) == 0
    rows = [(row["loss"], row["given"], row["target"]) for row in json.loads(capsys.readouterr().out)["rows"]]
    assert rows[-2:] == [("layer2.target2", "AB", "C"), ("layer2.target2", "ABC", "D")]
    assert {loss for loss, _, _ in rows} == {"layer1.target1", "main", "layer2.target2"}
