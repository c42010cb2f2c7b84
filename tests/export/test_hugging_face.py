"""Folders for transformers: its logits, hidden states and greedy texts are ours, its ids those of the alphabet."""

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from charladder.errors import UserError
from charladder.export import write_hugging_face
from charladder.export.tokenizer import byte_symbols
from charladder.objective import LanguageModelObjective, ObjectiveConfig
from charladder.text import Alphabet
from export.networks import varied_network

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
LETTERS = 'abé ñ\n日𝄞\\"\N{REPLACEMENT CHARACTER}'


def write(folder, network, letters="", unknown="error", precision="float32", objective=None):
    write_hugging_face(
        folder, network.settings, network.state_dict(), Alphabet(letters), unknown, precision, "card", objective
    )
    return folder


def random_ids(shape, symbols=256):
    return torch.randint(0, symbols, shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@torch.inference_mode()
def test_logits_are_ours_within_rounding(tmp_path, precision):
    network = varied_network(context=64)
    model = transformers.AutoModelForCausalLM.from_pretrained(write(tmp_path / "hf", network, precision=precision))
    assert type(model) is transformers.Qwen3ForCausalLM and model.dtype == getattr(torch, precision)
    rounded = copy.deepcopy(network).to(model.dtype).double()
    ids = random_ids((8, 64))
    exact = rounded(ids).logits_BTV
    ours, theirs = rounded.float()(ids).logits_BTV, model.float()(ids).logits
    error = (ours - exact).abs().max()
    assert error < 2e-6 * exact.abs().max()
    assert (theirs - exact).abs().max() < 4 * error


@torch.inference_mode()
def test_greedy_text_is_ours(tmp_path):
    network = varied_network(context=80)
    model = transformers.AutoModelForCausalLM.from_pretrained(write(tmp_path / "hf", network))
    prompt = random_ids((1, 5))
    theirs = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=60)
    ours = prompt
    for _ in range(60):
        ours = torch.cat([ours, network(ours, logits_to_keep=1).logits_BTV.argmax(-1)], 1)
    assert theirs.equal(ours)


def test_byte_symbols_are_those_of_byte_level_bpe():
    from tokenizers.pre_tokenizers import ByteLevel

    assert sorted(byte_symbols()) == sorted(ByteLevel.alphabet()) and len(set(byte_symbols())) == 256
    split = ByteLevel(add_prefix_space=False, use_regex=False)
    for text in ("A b\n", "é\x00\x7f日"):
        ((symbols, _),) = split.pre_tokenize_str(text)
        assert symbols == "".join(byte_symbols()[byte] for byte in text.encode())


def test_every_byte_of_a_text_has_its_id(tmp_path):
    tokenizer = transformers.AutoTokenizer.from_pretrained(write(tmp_path / "hf", varied_network()))
    text = "".join(map(chr, range(0x800))) + "\u0800\u1234\ud7ff\ue000\uffff\U00010000\U0010ffff  \n <s> </s> <unk>"
    for part in (text, " a", "", "\n", "e\u0301 ,don't  ."):
        assert tokenizer(part)["input_ids"] == list(part.encode())
        assert tokenizer.decode(list(part.encode())) == part
    assert len(tokenizer) == 256 and tokenizer.all_special_ids == []
    assert tokenizer.decode([0xFF, 0x41]) == "\N{REPLACEMENT CHARACTER}A"


@pytest.mark.parametrize("unknown", ["error", "drop", "replace"])
def test_every_letter_of_an_alphabet_has_its_id(tmp_path, unknown):
    network = varied_network(len(LETTERS))
    tokenizer = transformers.AutoTokenizer.from_pretrained(write(tmp_path / "hf", network, LETTERS, unknown))
    text = LETTERS[::-1] + " \n  aa"
    ids = tokenizer(text)["input_ids"]
    assert ids == Alphabet(LETTERS).encode(text.encode()).tolist() and tokenizer.decode(ids) == text
    assert len(tokenizer) == len(LETTERS) and tokenizer.all_special_ids == []
    if unknown == "error":
        with pytest.raises(Exception, match="Missing"):
            tokenizer("az")
    else:
        expected = Alphabet(LETTERS).encode("azéb".encode(), unknown=unknown).tolist()
        assert tokenizer("azéb")["input_ids"] == expected


@pytest.mark.parametrize("chained", [False, True])
@torch.inference_mode()
def test_heads_predict_from_the_hidden_states_of_transformers(tmp_path, chained):
    network = varied_network()
    config = ObjectiveConfig(targets=2, target_heads="chained" if chained else "independent")
    objective = LanguageModelObjective(config, network.settings, 256)
    folder = write(tmp_path / "hf", network, objective=objective)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    heads, ids = load_file(folder / "heads.safetensors"), random_ids((2, 12))
    states = model(ids, output_hidden_states=True).hidden_states
    hidden = network(ids, output_hidden=(1, 2)).hidden
    ours = objective.classifier(network, 1, 1)(objective.head_input(network, 1, hidden[1]))
    theirs = F.layer_norm(states[1], states[1].shape[-1:]) @ heads["layer1.target1.weight"].T
    torch.testing.assert_close(theirs, ours)
    if not chained:
        ours = objective.classifier(network, 2, 2)(hidden[2])
        torch.testing.assert_close(states[2] @ heads["layer2.target2.weight"].T, ours)
        assert set(heads) == {f"layer{n}.target{k}.weight" for n, k in ((1, 1), (1, 2), (2, 2))}
        return
    ((_, ours),) = objective.chained_states(network, hidden[2][:, :11], ids, 2)
    layer = copy.deepcopy(model.model.layers[0])
    prefix = "layer2.target2."
    block = {name.removeprefix(f"{prefix}block."): tensor for name, tensor in heads.items() if ".block." in name}
    layer.load_state_dict(block)

    def norm(x, weight):
        return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * heads[f"{prefix}{weight}.weight"]

    both = norm(states[2][:, :11], "state_norm"), norm(model.model.embed_tokens(ids[:, 1:]), "embedding_norm")
    x = torch.cat(both, -1) @ heads[f"{prefix}projection.weight"].T
    mask = torch.full((11, 11), float("-inf")).triu(1)[None, None]
    positions = model.model.rotary_emb(x, torch.arange(11)[None])
    theirs = layer(x, attention_mask=mask, position_embeddings=positions)
    torch.testing.assert_close(theirs[0] if isinstance(theirs, tuple) else theirs, ours, atol=1e-5, rtol=1e-5)


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("charladder.export.hugging_face.write_text", fail)
    with pytest.raises(UserError, match="cannot be written: No space left"):
        write(tmp_path / "hf", varied_network())
    assert list(tmp_path.iterdir()) == []
