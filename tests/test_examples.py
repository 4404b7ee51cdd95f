"""The parts of the examples; `make smoke` runs them whole."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import mlxr as mx
from mlxr.utils import tree_flatten

EXAMPLES = Path(__file__).parent.parent / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_digits(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    pytest.importorskip("tqdm", reason="tqdm is not installed")
    digits = example("digits")
    x, y, test_x, test_y = digits.digits()
    assert (x.shape, y.shape, test_x.shape, test_y.shape) == ((1437, 64), (1437,), (360, 64), (360,))
    model = digits.train(x, y, epochs=3)
    trained = digits.accuracy(model, test_x, test_y)
    assert trained > 0.9
    losses = digits.first_losses(x, y, count=3, hidden=32)
    assert len(losses) == 3
    assert losses == digits.first_losses(x, y, count=3, hidden=32)
    assert 1 < losses[2] < losses[0] < 4
    first = digits.save(model, tmp_path / "first.safetensors")
    assert digits.accuracy(digits.load(tmp_path / "first.safetensors"), test_x, test_y) == trained
    assert digits.save(digits.train(x, y, epochs=3), tmp_path / "again.safetensors") == first


CONFIG = {
    "hidden_size": 8,
    "vocab_size": 11,
    "max_position_embeddings": 6,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
}


def test_minilm(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    minilm = example("minilm")
    mx.random.seed(0)
    model = minilm.SentenceEncoder(CONFIG)

    # A file under BERT's names: the inverse of what the example does to them.
    theirs = {ours: name for name, ours in minilm.LAYER_NAMES.items()}
    arrays = {"embeddings.position_ids": mx.zeros((1, 6), dtype=mx.int64), "pooler.dense.bias": mx.zeros((8,))}
    for name, array in tree_flatten(model.parameters()):
        where, _, parameter = name.rpartition(".")
        part, _, where = where.partition(".")
        if part == "embeddings":
            names = {ours: name for name, ours in minilm.EMBEDDING_NAMES.items()}
            arrays[f"embeddings.{names[where]}.{parameter}"] = array
        else:
            number, _, where = where.partition(".")
            arrays[f"encoder.layer.{number}.{theirs[where]}.{parameter}"] = array
    mx.save_safetensors(str(tmp_path / "bert.safetensors"), arrays)
    mx.random.seed(1)
    loaded = minilm.SentenceEncoder(CONFIG).load_weights(minilm.weights(tmp_path / "bert.safetensors"))

    tokens = mx.array([[1, 2, 3, 4], [5, 6, 0, 0]])
    real = mx.array([[1, 1, 1, 1], [1, 1, 0, 0]])
    vectors = np.array(loaded(tokens, real))
    np.testing.assert_array_equal(vectors, np.array(model(tokens, real)))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    alone = np.array(loaded(tokens[1:, :2], real[1:, :2]))
    np.testing.assert_allclose(vectors[1:], alone, rtol=1e-4, atol=1e-5)
