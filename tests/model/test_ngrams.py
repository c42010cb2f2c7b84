"""N-gram embeddings: what they depend on, cached decoding, training and checkpoints."""

import pytest
import torch

from charladder.errors import UserError
from charladder.model import KVCache, Transformer
from charladder.training import TrainingDiverged
from helpers import PROSE, make_trainer, small

SETTINGS = small(ngrams=5, ngram_rows=97)


def random_network():
    """A network whose n-gram tables are not zero."""
    network = Transformer(SETTINGS, 256, 0).double()
    for seed, parameter in enumerate(network.parameters()):
        noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        parameter.data.add_(0.3 * noise)
    return network.eval()


def test_untrained_tables_change_nothing():
    with_tables, without = Transformer(SETTINGS, 256), Transformer(small(), 256)
    without.load_state_dict(with_tables.state_dict(), strict=False)
    tokens = torch.arange(12)[None]
    assert torch.equal(with_tables(tokens).logits_BTV, without(tokens).logits_BTV)


def test_embedding_depends_only_on_the_last_n_characters():
    table = random_network().ngrams
    assert table is not None
    tokens = torch.randint(0, 256, (1, 16), generator=torch.Generator().manual_seed(1))
    before = table(tokens, 16)
    changed = tokens.clone()
    changed[0, 6] = (tokens[0, 6] + 1) % 256
    differs = (table(changed, 16) != before).any(-1)[0]
    assert differs.tolist() == [6 <= position < 6 + 5 for position in range(16)]
    assert torch.equal(table(tokens, 4), before[:, -4:])
    # The same n-gram has the same embedding at every position.
    shifted = torch.cat((tokens[:, 3:4], tokens[:, :-1]), 1)
    assert torch.equal(table(shifted, 16)[:, 6:], before[:, 5:-1])


def test_order_matters():
    table = random_network().ngrams
    assert table is not None
    a, b = table(torch.tensor([[1, 2, 3]]), 1), table(torch.tensor([[2, 1, 3]]), 1)
    assert not torch.equal(a, b)


@torch.no_grad()
def test_cached_equals_uncached():
    network = random_network()
    tokens = torch.randint(0, 256, (2, 16), generator=torch.Generator().manual_seed(1))
    whole = network(tokens).logits_BTV
    cache = KVCache(SETTINGS, 2, dtype=torch.float64)
    pieces = [network(tokens[:, begin:end], cache=cache).logits_BTV for begin, end in ((0, 1), (1, 2), (2, 9))]
    cache.seek(5)
    again = network(tokens[:, 5:], cache=cache).logits_BTV
    torch.testing.assert_close(torch.cat(pieces, 1), whole[:, :9], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(again, whole[:, 5:], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("micro_batch", [0, 2])
def test_training_updates_rows_and_resumes_bitwise(micro_batch):
    data = (PROSE * 5).encode()
    whole, first, second = (make_trainer(data, SETTINGS, micro_batch=micro_batch) for _ in range(3))
    for _ in range(6):
        whole.step()
    for _ in range(3):
        first.step()
    second.restore(first.checkpoint())
    for _ in range(3):
        second.step()
    tables = whole.network.ngrams
    assert tables is not None
    for table in tables.tables:
        touched = table.weight.any(-1).sum()
        assert 0 < touched <= 97
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, second.network.state_dict()[name]), name


def test_nan_in_a_table_is_detected():
    trainer = make_trainer((PROSE * 5).encode(), SETTINGS, skips=0)
    trainer.step()
    tables = trainer.network.ngrams
    assert tables is not None
    tables.tables[0].weight.data.fill_(float("nan"))
    with pytest.raises(TrainingDiverged):
        trainer.step()


@pytest.mark.parametrize("changes", [{"ngrams": 2}, {"ngrams": 17}, {"ngrams": -3}, {"ngram_rows": 0}])
def test_invalid_settings(changes):
    with pytest.raises(UserError, match="ngram"):
        small(**changes)
