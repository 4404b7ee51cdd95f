"""Fixtures of the IO tests."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def rng():
    """Return a generator that gives every test the same numbers on every run."""
    return np.random.default_rng(20240229)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return an empty folder that is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
