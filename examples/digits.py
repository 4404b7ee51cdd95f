"""Train a classifier of handwritten digits: a first lesson in mlxr.

Run it with ``python examples/digits.py``. It goes through all that training consists of: data, a model, a loss, its
gradients, an optimizer, a file, and predictions in another process. It needs mlxr, scikit-learn (for the data) and tqdm
(for the progress bar), and takes a few seconds.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from tqdm import tqdm

import mlxr as mx
from mlxr import nn, optimizers
from mlxr.backends import registry

SEED = 0
BATCH = 64


def digits() -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """Return images and labels to train on, and images and labels to test with."""
    images, labels = load_digits(return_X_y=True)  # 1797 images of 8 x 8 pixels, each from 0 to 16
    order = np.random.default_rng(SEED).permutation(len(labels))
    train, test = order[360:], order[:360]
    x = mx.array((images / 16).astype(np.float32))
    y = mx.array(labels.astype(np.int32))
    return x[mx.array(train)], y[mx.array(train)], x[mx.array(test)], y[mx.array(test)]


class Classifier(nn.Module):
    """Two layers: 64 pixels to `hidden` features to 10 scores, one for each digit."""

    def __init__(self, hidden: int = 256) -> None:
        super().__init__()
        self.features = nn.Linear(64, hidden)
        self.dropout = nn.Dropout(0.2)
        self.scores = nn.Linear(hidden, 10)

    def __call__(self, x: mx.array) -> mx.array:
        """Return the scores of each image."""
        return self.scores(self.dropout(nn.relu(self.features(x))))


def loss(model: Classifier, x: mx.array, y: mx.array) -> mx.array:
    """Return how improbable the model thinks the right labels are."""
    return nn.losses.cross_entropy(model(x), y, reduction="mean")


def accuracy(model: Classifier, x: mx.array, y: mx.array) -> float:
    """Return the share of images whose highest score is that of the right digit."""
    model.eval()  # in evaluation mode nothing is dropped out
    return mx.mean(mx.argmax(model(x), axis=-1) == y).item()


def steps(model: Classifier, x: mx.array, y: mx.array, epochs: int) -> Iterator[mx.array]:
    """Train `model`, one batch after the other, and yield the loss of each."""
    optimizer = optimizers.AdamW(optimizers.cosine_decay(2e-3, epochs * (len(y) // BATCH)), weight_decay=1e-2)
    loss_and_gradients = nn.value_and_grad(model, partial(loss, model))
    model.train()
    for _ in range(epochs):
        order = mx.random.permutation(len(y))
        for start in range(0, len(y) - BATCH + 1, BATCH):
            batch = order[start : start + BATCH]
            value, gradients = loss_and_gradients(x[batch], y[batch])
            optimizer.update(model, gradients)
            mx.eval(model.state, optimizer.state)
            yield value


def train(x: mx.array, y: mx.array, epochs: int) -> Classifier:
    """Return a trained model. The same seed gives the same bits."""
    mx.random.seed(SEED)
    model = Classifier()
    progress = tqdm(steps(model, x, y, epochs), total=epochs * (len(y) // BATCH), unit="step")
    for value in progress:
        progress.set_postfix_str(f"loss {value.item():.3f}", refresh=False)
    return model


def first_losses(x: mx.array, y: mx.array, count: int, hidden: int) -> list[float]:
    """Return the losses of the first steps of a training: what tells whether two devices compute the same."""
    mx.random.seed(SEED)
    return [value.item() for value in islice(steps(Classifier(hidden), x, y, epochs=30), count)]


def save(model: Classifier, file: Path) -> str:
    """Write the parameters, and return a fingerprint of the file."""
    model.save_weights(str(file))
    return hashlib.sha256(file.read_bytes()).hexdigest()


def load(file: Path) -> Classifier:
    """Return a model with the parameters of a file; they stay in it until they are used."""
    return Classifier().load_weights(str(file))


def accuracy_in_fresh_process(file: Path, device: str) -> float:
    """Return the accuracy of the model in `file`, computed by another Python."""
    command = [sys.executable, __file__, "--device", device, "--evaluate", str(file)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> int:
    """Train twice, compare, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=registry.BACKENDS, help="where to compute")
    parser.add_argument("--epochs", type=int, default=30, help="how often every image is seen")
    parser.add_argument("--out", type=Path, help="where to save the model (.safetensors); by default nowhere")
    parser.add_argument("--evaluate", type=Path, metavar="FILE", help="only print the accuracy of a saved model")
    parser.add_argument("--losses", type=int, metavar="N", help="only print the losses of the first N steps")
    parser.add_argument("--hidden", type=int, default=256, help="features of the model whose losses are printed")
    args = parser.parse_args()

    mx.set_default_device(args.device)
    x, y, test_x, test_y = digits()
    if args.evaluate:
        print(accuracy(load(args.evaluate), test_x, test_y))
        return 0
    if args.losses:
        print(*first_losses(x, y, args.losses, args.hidden), sep="\n")
        return 0

    with tempfile.TemporaryDirectory() as folder:
        file = args.out or Path(folder, "digits.safetensors")
        start = time.perf_counter()
        model = train(x, y, args.epochs)
        seconds = time.perf_counter() - start
        fingerprint = save(model, file)
        again = save(train(x, y, args.epochs), Path(folder, "again.safetensors"))
        trained = accuracy(model, test_x, test_y)
        loaded = accuracy_in_fresh_process(file, args.device)

    checks = {
        "accuracy is at least 0.97": trained >= 0.97,
        "a fresh process predicts the same": loaded == trained,
        "a second run gives the same bits": again == fingerprint,
    }
    print(f"accuracy   {trained:.4f} on {len(test_y)} images that were not trained on")
    print(f"loaded     {loaded:.4f} in a fresh process, from a mapped file")
    print(f"time       {seconds:.1f} s for {args.epochs} epochs of {len(y)} images")
    print(f"device     {args.device}, on {os.cpu_count()} processors ({platform.machine()})")
    for status in registry.statuses():
        print(f"backend    {status.entry.device:8} {'available' if status.backend else status.reason}")
    print(f"versions   mlxr {mx.__version__}, Python {platform.python_version()}, NumPy {np.__version__}")
    for check, passed in checks.items():
        print(f"{'ok' if passed else 'FAILED':9}  {check}")
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
