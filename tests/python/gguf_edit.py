"""Copy a GGUF file with other metadata and other tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from numpy.typing import NDArray


def copy_with(
    source: Path,
    target: Path,
    values: Mapping[str, str | int | float | None],
    tensors: Mapping[str, NDArray[np.float32]] | None = None,
) -> Path:
    """Write `source` to `target` with metadata added, replaced or (None) removed.

    int becomes uint32 and float float32. `tensors` replaces tensors that are F32 in the source;
    their shapes may differ.
    """
    reader = GGUFReader(source)
    arch = reader.fields["general.architecture"].contents()
    writer = GGUFWriter(target, arch)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture" or name in values:
            continue
        kind = field.types[0]
        of = field.types[-1] if kind == GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), kind, of)
    for name, value in values.items():
        if isinstance(value, str):
            writer.add_string(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        elif value is not None:
            writer.add_float32(name, value)
    for tensor in reader.tensors:
        data: Any = (tensors or {}).get(tensor.name, tensor.data)
        writer.add_tensor(tensor.name, data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
