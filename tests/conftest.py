"""Models for the tests: the reference models beside the repository, and the bundled one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("A2SF_SHARED", ROOT.parent / "shared"))
MODELS = SHARED / "reference" / "models"
LOGITS = SHARED / "reference" / "logits"


@pytest.fixture(scope="session")
def models() -> Path:
    """Folder of the reference models."""
    if not MODELS.is_dir():
        pytest.skip(f"no {MODELS} (set A2SF_SHARED to the folder that holds reference/models)")
    return MODELS


@pytest.fixture(scope="session")
def llama(models: Path) -> Path:
    """Llama architecture, 2 layers, F32, seeded random weights, 512 tokens, context 4096."""
    return models / "llama-F32.gguf"


@pytest.fixture(scope="session")
def ids(models: Path) -> list[int]:
    """96 token ids of the reference models."""
    return [int(x) for x in (models.parent / "ids.txt").read_text().split()]


@pytest.fixture(scope="session")
def bundled() -> Path:
    """Model that the package or the repository ships."""
    import a2sf

    try:
        return Path(a2sf.Engine().info.path)
    except a2sf.Error as error:
        pytest.skip(str(error))
