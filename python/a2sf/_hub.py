"""Where a model file is: on disk, bundled with the package, or on the Hugging Face Hub."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path

from . import _core
from ._core import Error, OptionError

PREFIX = "hf:"


def local_path(path: str | os.PathLike[str]) -> str:
    """Path of a file on this machine, downloaded first if it starts with "hf:"."""
    text = path_text(path)
    return download(text) if text.startswith(PREFIX) else text


def path_text(path: str | os.PathLike[str]) -> str:
    """Path as text, which the system does not cut short.

    Raises
    ------
    TypeError
        Something else than str or os.PathLike of str.
    ValueError
        A NUL in it, where the system would take its end to be.
    """
    text = os.fspath(path)
    if not isinstance(text, str):
        raise TypeError(f"path: str or os.PathLike expected, found {type(path).__name__}")
    if "\0" in text:
        raise ValueError(f"path: one without NUL expected, found {text!r}")
    return text


def bundled_path() -> str:
    """Path of the model used when none is given: $A2SF_MODEL, else the one in the package."""
    if path := os.environ.get("A2SF_MODEL"):
        return local_path(path)
    folder = Path(str(_core.__file__)).parent / "models"
    models = sorted(folder.glob("*.gguf"))
    if not models:
        raise Error(
            f"bundled model: a .gguf file in {folder} or $A2SF_MODEL expected, found neither"
        )
    return str(models[0])


def parse(spec: str) -> tuple[str, str | None, str]:
    """Split "hf:owner/repo[@revision]/path/file.gguf" into repository, revision and file.

    Raises
    ------
    OptionError
        Any of the three parts is missing or empty.
    """
    parts = spec.removeprefix(PREFIX).split("/", 2)
    if len(parts) == 3:
        owner, repo, file = parts
        name, at, revision = repo.partition("@")
        if owner and name and file.strip("/") and bool(at) == bool(revision):
            return f"{owner}/{name}", revision or None, file
    raise OptionError(f"model: hf:owner/repo[@revision]/file.gguf expected, found {spec!r}")


def download(spec: str) -> str:
    """Fetch a file through huggingface_hub's cache; a cached one needs no network.

    Parameters
    ----------
    spec : str
        "hf:owner/repo/file.gguf", or "hf:owner/repo@revision/file.gguf" for a branch, tag or
        commit.

    Returns
    -------
    str
        Path in the cache ($HF_HOME and $HF_ENDPOINT are honoured).

    Raises
    ------
    OptionError
        The text is not of that form.
    Error
        huggingface_hub is not installed, or could not get the file; its reason is in the message.
    """
    repo, revision, file = parse(spec)
    try:
        huggingface_hub = import_module("huggingface_hub")  # optional: not to be type-checked
    except ImportError as error:
        raise Error(
            f"{spec}: the package huggingface-hub expected (pip install a2sf[hub]), found none"
        ) from error
    try:
        return str(huggingface_hub.hf_hub_download(repo, file, revision=revision))
    except Exception as error:  # its errors have no common base: HTTP, OSError, ValueError, ...
        reason = " ".join(str(error).split()) or type(error).__name__
        raise Error(f"{spec}: a file that can be downloaded expected, found: {reason}") from error
