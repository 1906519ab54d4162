"""LLM decoding with a KV cache that stays inside a budget.

>>> import a2sf
>>> engine = a2sf.Engine("model.gguf", eviction=a2sf.Eviction(budget=1024))
>>> engine.generate("Once upon a time", max_tokens=32).text

Every option is keyword-only and checked before any work starts. Everything raised on purpose is an
`a2sf.Error`, whose message reads "where: what was expected, what was found".
"""

from . import _core
from ._batch import Batch, BatchStream
from ._core import (
    Cache,
    DeviceError,
    Error,
    GgufError,
    OptionError,
    SavedSessionError,
    UnsupportedError,
    architectures,
    devices,
    isa,
    policies,
    weight_types,
)
from ._engine import Engine
from ._options import Eviction, Sampling
from ._results import Generation, ModelInfo, Stats, Token
from ._session import Session
from ._stream import TokenStream
from ._tokenizer import Tokenizer

__all__ = [
    "Batch",
    "BatchStream",
    "Cache",
    "DeviceError",
    "Engine",
    "Error",
    "Eviction",
    "Generation",
    "GgufError",
    "ModelInfo",
    "OptionError",
    "Sampling",
    "SavedSessionError",
    "Session",
    "Stats",
    "Token",
    "TokenStream",
    "Tokenizer",
    "UnsupportedError",
    "__version__",
    "architectures",
    "devices",
    "isa",
    "policies",
    "weight_types",
]

__version__ = _core.VERSION

# Names as users know them, in tracebacks and in pickles.
for _type in (
    Cache, Error, GgufError, OptionError, SavedSessionError, UnsupportedError, DeviceError,
):  # fmt: skip
    _type.__module__ = "a2sf"
del _type
