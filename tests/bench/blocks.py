"""Weights in the block formats of GGUF: seeded random ones, and floats quantised by rounding.

Block layouts: the ggml project's, as the gguf package decodes them. The quantisers of Q4_K and Q6_K
round to the nearest code between minimum and maximum; llama.cpp searches for better scales. Time is
measured with these files, not quality.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Kind = GGMLQuantizationType

DEVIATION = 0.02  # of the random weights
CHUNK_WEIGHTS = 1 << 22  # held as float at any time

# Standard deviation of the integers that a scale multiplies, for uniformly random bits.
_NIBBLE = 4.61  # 0..15
_BYTE = 73.3  # -127..127
_SIX_BITS = 18.5  # 0..63


def _halves(values: NDArray[np.floating]) -> Bytes:
    """Little-endian float16 bytes [..., 2] of values [...]."""
    return np.ascontiguousarray(values, np.dtype("<f2"))[..., None].view(np.uint8)


def _scales(rng: np.random.Generator, n_blocks: int, mean: float) -> Floats:
    """Positive block scales [n_blocks] within half of their mean."""
    return (mean * (0.5 + rng.random(n_blocks, np.float32))).astype(np.float32)


def _signed_scales(rng: np.random.Generator, n_blocks: int, mean: float) -> Floats:
    """As `_scales`, of either sign: codes run from -n to n - 1, which would shift the mean."""
    signs = rng.integers(0, 2, n_blocks).astype(np.float32) * 2 - 1
    return (_scales(rng, n_blocks, mean) * signs).astype(np.float32)


def pack_scales(scales: Bytes, mins: Bytes) -> Bytes:
    """The 12 bytes of Q4_K and Q5_K that hold 8 scales and 8 minima of 6 bits, each [n, 8]."""
    low, high = np.s_[:, :4], np.s_[:, 4:]
    return np.concatenate(
        [
            scales[low] | (scales[high] >> 4) << 6,
            mins[low] | (mins[high] >> 4) << 6,
            (scales[high] & 15) | (mins[high] & 15) << 4,
        ],
        axis=1,
    )


def _random_q4_0(rng: np.random.Generator, n: int, codes: Bytes) -> Bytes:
    codes[:, :2] = _halves(_signed_scales(rng, n, DEVIATION / _NIBBLE))
    return codes


def _random_q4_1(rng: np.random.Generator, n: int, codes: Bytes) -> Bytes:
    scales = _scales(rng, n, DEVIATION / _NIBBLE)
    codes[:, :2], codes[:, 2:4] = _halves(scales), _halves(-7.5 * scales)
    return codes


def _random_q8_0(rng: np.random.Generator, n: int, codes: Bytes) -> Bytes:
    codes[codes == 0x80] = 0x81  # -128 is no code that a quantiser writes
    codes[:, :2] = _halves(_scales(rng, n, DEVIATION / _BYTE))
    return codes


def _random_q4_k(rng: np.random.Generator, n: int, codes: Bytes) -> Bytes:
    # One number is both scale and minimum of a sub-block, so that its mean is 0: s (q - 7.5).
    scales = rng.integers(16, 64, (n, 8), np.uint8)
    unit = _scales(rng, n, DEVIATION / (_NIBBLE * 40))
    codes[:, :2], codes[:, 2:4] = _halves(unit), _halves(7.5 * unit)
    codes[:, 4:16] = pack_scales(scales, scales)
    return codes


def _random_q6_k(rng: np.random.Generator, n: int, codes: Bytes) -> Bytes:
    codes[:, 192:208] = rng.integers(32, 128, (n, 16), np.uint8)
    codes[:, 208:] = _halves(_signed_scales(rng, n, DEVIATION / (_SIX_BITS * 80)))
    return codes


_RANDOM: dict[Kind, Callable[[np.random.Generator, int, Bytes], Bytes]] = {
    Kind.Q4_0: _random_q4_0,
    Kind.Q4_1: _random_q4_1,
    Kind.Q8_0: _random_q8_0,
    Kind.Q4_K: _random_q4_k,
    Kind.Q6_K: _random_q6_k,
}


def _q4_k(rows: Floats) -> Bytes:
    """Q4_K: 8 sub-blocks of 32 weights, w = d scale code - dmin min."""
    x = rows.reshape(-1, 8, 32)
    low = np.minimum(x.min(2), 0)
    step = (x.max(2).clip(0) - low) / 15
    unit, min_unit = (v.max(1, keepdims=True).astype(np.float16) for v in (step / 63, -low / 63))
    scales = _divide(step, unit.astype(np.float32)).clip(0, 63).astype(np.uint8)
    mins = _divide(-low, min_unit.astype(np.float32)).clip(0, 63).astype(np.uint8)
    offset = (min_unit * mins.astype(np.float32))[:, :, None]
    codes = _divide(x + offset, (unit * scales.astype(np.float32))[:, :, None])
    pairs = codes.clip(0, 15).astype(np.uint8).reshape(-1, 4, 2, 32)
    packed = (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(-1, 128)
    header = [_halves(unit[:, 0]), _halves(min_unit[:, 0]), pack_scales(scales, mins)]
    return np.concatenate([*header, packed], axis=1)


def _q6_k(rows: Floats) -> Bytes:
    """Q6_K: 16 sub-blocks of 16 weights, w = d scale (code - 32)."""
    x = rows.reshape(-1, 16, 16)
    step = np.abs(x).max(2) / 31
    unit = (step.max(1, keepdims=True) / 127).astype(np.float16)
    scales = _divide(step, unit.astype(np.float32)).clip(0, 127).astype(np.uint8)
    codes = _divide(x, (unit * scales.astype(np.float32))[:, :, None]).clip(-32, 31) + 32
    quarter = codes.astype(np.uint8).reshape(-1, 2, 4, 32)  # halves of 128, quarters of 32
    low, high = quarter & 15, quarter >> 4
    ql = np.concatenate([low[:, :, 0] | low[:, :, 2] << 4, low[:, :, 1] | low[:, :, 3] << 4], 2)
    qh = high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6
    parts = [ql.reshape(-1, 128), qh.reshape(-1, 64), scales, _halves(unit[:, 0])]
    return np.concatenate(parts, axis=1)


def _divide(values: Floats, units: Floats) -> Floats:
    """Nearest integers to values / units; 0 where the unit is 0."""
    safe = np.where(units == 0, 1, units)
    return np.where(units == 0, 0, np.rint(values / safe)).astype(np.float32)


_QUANTISE: dict[Kind, Callable[[Floats], Bytes]] = {Kind.Q4_K: _q4_k, Kind.Q6_K: _q6_k}


def row_bytes(kind: Kind, n_columns: int) -> int:
    """Bytes of a row of n_columns weights."""
    block, n_bytes = GGML_QUANT_SIZES[kind]
    if n_columns % block != 0:
        raise ValueError(f"{kind.name}: columns divisible by {block} expected, found {n_columns}")
    return n_columns // block * n_bytes


def quantise(rows: Floats, kind: Kind) -> Bytes:
    """Bytes [n_rows, row_bytes] of weights [n_rows, n_columns]."""
    n_bytes = row_bytes(kind, rows.shape[1])
    if kind in _QUANTISE:
        return _QUANTISE[kind](rows).reshape(len(rows), n_bytes)
    return np.ascontiguousarray(quants.quantize(rows, kind)).view(np.uint8).reshape(-1, n_bytes)


def _random_chunk(rng: np.random.Generator, kind: Kind, n_weights: int) -> Bytes:
    if kind not in _RANDOM:
        values = rng.standard_normal((1, n_weights), np.float32) * np.float32(DEVIATION)
        return quantise(values, kind).reshape(-1)
    block, n_bytes = GGML_QUANT_SIZES[kind]
    n = n_weights // block
    codes = np.frombuffer(rng.bytes(n * n_bytes), np.uint8).reshape(n, n_bytes).copy()
    return _RANDOM[kind](rng, n, codes).reshape(-1)


def random_weights(rng: np.random.Generator, kind: Kind, n_rows: int, n_columns: int) -> Bytes:
    """Random weights of standard deviation 0.02: bytes [n_rows, row_bytes]."""
    out = np.empty((n_rows, row_bytes(kind, n_columns)), np.uint8)
    step = max(1, CHUNK_WEIGHTS // n_columns)
    for first in range(0, n_rows, step):
        part = out[first : first + step]
        part[:] = _random_chunk(rng, kind, len(part) * n_columns).reshape(part.shape)
    return out


def requantise(data: NDArray[np.generic], source: Kind, kind: Kind, n_columns: int) -> Bytes:
    """Stored weights [n_rows, ...] of one format as bytes [n_rows, row_bytes] of another."""
    if source == kind:
        return np.ascontiguousarray(data).view(np.uint8).reshape(len(data), -1)
    out = np.empty((len(data), row_bytes(kind, n_columns)), np.uint8)
    step = max(1, CHUNK_WEIGHTS // n_columns)
    for first in range(0, len(data), step):
        rows = quants.dequantize(np.asarray(data[first : first + step]), source)
        out[first : first + step] = quantise(np.ascontiguousarray(rows, np.float32), kind)
    return out
