"""Every weight type decodes exactly as llama.cpp's gguf package does.

Random bytes reach every code, scale and corner of a format; only what a real file cannot hold is
excluded: infinite or NaN scales, and -128 in Q8_0 (see cpp/quant/formats/q8_0.h).
"""

import a2sf
import numpy as np
import pytest
from a2sf import _core

gguf = pytest.importorskip("gguf")

N_BLOCKS = 400

# Byte offsets of the half-precision numbers in a block.
HALVES = {
    "F16": [0],
    "Q8_0": [0],
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q2_K": [80, 82],
    "Q3_K": [108],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
    "IQ4_NL": [0],
    "IQ4_XS": [0],
}


def random_blocks(name: str, n_blocks: int, n_bytes: int) -> np.ndarray:
    """Random blocks [n_blocks, n_bytes] of uint8 whose scales are finite."""
    rng = np.random.default_rng(sum(name.encode()))
    blocks = rng.integers(0, 256, (n_blocks, n_bytes), dtype=np.uint8)
    for offset in HALVES.get(name, []):
        blocks[:, offset + 1] &= 0xFB  # clears the lowest exponent bit: never all ones
    if name == "F32":
        blocks[:, 3] &= 0xBF  # as above
    if name == "BF16":
        blocks[:, 1] &= 0xBF
    if name == "MXFP4":
        blocks[:, 0] = np.minimum(blocks[:, 0], 250)
    if name == "Q8_0":
        quants = blocks[:, 2:]
        quants[quants == 0x80] = 0x81
    return blocks


@pytest.mark.parametrize("name", a2sf.weight_types())
def test_decode_equals_the_gguf_package(name: str) -> None:
    kind = gguf.GGMLQuantizationType[name]
    block, n_bytes = gguf.GGML_QUANT_SIZES[kind]
    blocks = random_blocks(name, N_BLOCKS, n_bytes)
    expected = gguf.quants.dequantize(blocks, kind).reshape(-1)
    assert np.isfinite(expected).all()
    found = _core.decode_weights(name, blocks.tobytes())
    assert found.dtype == np.float32
    assert found.shape == (N_BLOCKS * block,)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", a2sf.weight_types())
def test_decode_of_zero_bytes_is_finite(name: str) -> None:
    _, n_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    assert np.isfinite(_core.decode_weights(name, bytes(n_bytes))).all()


def test_minus_128_in_q8_0_is_read_as_minus_127() -> None:
    scale = np.float16(1.0).tobytes()
    found = _core.decode_weights("Q8_0", scale + b"\x80" * 32)
    np.testing.assert_array_equal(found, np.full(32, -127.0, np.float32))
