"""A GGUF file in fewer bits, one tensor after the other, by llama.cpp's own arithmetic.

The arithmetic is ggml_quantize_chunk of the library that llama.cpp runs in; the pure Python of
`gguf` has none for K types.
"""

import ctypes
import importlib
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from astuner.errors import ConfigError
from astuner.exporting.gguf_types import Quantization, TensorShape, model_shape, type_of

_ROWS = 256
"""That one call rounds; small enough that all threads have some, and to be held as float32."""


def quantize_file(
    whole: Path, file: Path, quantization: Quantization, *, num_threads: int
) -> Mapping[str, int]:
    """Write `whole`, whose weights are float16 or bfloat16, anew; tell how many tensors got each
    type.

    Peak memory is that of its largest tensor in both types.
    """
    import gguf

    reader = gguf.GGUFReader(whole)
    types = _types(reader, quantization)
    writer = gguf.GGUFWriter(file, arch=_value(reader, gguf.Keys.General.ARCHITECTURE))
    _copy_fields(reader, writer)
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{quantization.upper()}"])
    for tensor in reader.tensors:
        shape, size = _stored(tensor, types[tensor.name])
        writer.add_tensor_info(
            tensor.name, shape, _numpy_type(types[tensor.name]), size, types[tensor.name]
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    quantize = _quantizer(num_threads)
    for tensor in reader.tensors:
        writer.write_tensor_data(quantize(tensor, types[tensor.name]))
    writer.close()
    return Counter(kind.name for kind in types.values())


def _types(reader: Any, quantization: Quantization) -> dict[str, Any]:
    """By the name of the tensor. The converter has kept in float32 what may not be rounded."""
    import gguf

    experts = _value(reader, gguf.Keys.LLM.EXPERT_COUNT, default=1)
    model = model_shape([tensor.name for tensor in reader.tensors], num_experts=experts)

    def chosen(tensor: Any) -> Any:
        if tensor.tensor_type == gguf.GGMLQuantizationType.F32:
            return tensor.tensor_type
        shape = TensorShape(name=tensor.name, row=int(tensor.shape[0]))
        return gguf.GGMLQuantizationType[type_of(shape, model, quantization)]

    return {tensor.name: chosen(tensor) for tensor in reader.tensors}


def _value(reader: Any, key: str, default: Any = None) -> Any:
    """Of the file's own fields; those of one architecture are named with it in front."""
    import gguf

    arch = reader.get_field(gguf.Keys.General.ARCHITECTURE).contents()
    field = reader.get_field(key.format(arch=arch))
    return default if field is None else field.contents()


def _copy_fields(reader: Any, writer: Any) -> None:
    import gguf

    of_the_writer = {gguf.Keys.General.ARCHITECTURE, gguf.Keys.General.FILE_TYPE}
    for field in reader.fields.values():
        if field.name in of_the_writer or field.name.startswith("GGUF."):
            continue
        is_array = field.types[0] == gguf.GGUFValueType.ARRAY
        writer.add_key_value(
            field.name,
            field.contents(),
            field.types[0],
            sub_type=field.types[-1] if is_array else None,
        )


def _numpy_type(kind: Any) -> Any:
    import gguf
    import numpy

    plain = {
        gguf.GGMLQuantizationType.F32: numpy.dtype(numpy.float32),
        gguf.GGMLQuantizationType.F16: numpy.dtype(numpy.float16),
    }
    return plain.get(kind, numpy.dtype(numpy.uint8))


def _stored(tensor: Any, kind: Any) -> tuple[tuple[int, ...], int]:
    """Shape, as numpy holds it, and bytes of a tensor in a type."""
    import gguf

    shape = tuple(int(length) for length in reversed(tensor.shape))
    block, size = gguf.GGML_QUANT_SIZES[kind]
    num_bytes = int(tensor.n_elements) // block * size
    if _numpy_type(kind).name == "uint8":
        shape = gguf.quant_shape_to_byte_shape(shape, kind)
    return shape, num_bytes


def _quantizer(num_threads: int) -> Callable[[Any, Any], Any]:
    """What rounds the rows of a tensor, `num_threads` at a time."""
    import gguf
    import numpy

    round_rows = _library().ggml_quantize_chunk

    def quantize(tensor: Any, kind: Any) -> Any:
        if kind == tensor.tensor_type:
            return tensor.data
        if kind == gguf.GGMLQuantizationType.F16:
            return _floats(tensor.data, tensor.tensor_type).astype(numpy.float16)
        row = int(tensor.shape[0])
        block, size = gguf.GGML_QUANT_SIZES[kind]
        data = tensor.data.reshape(-1, tensor.data.shape[-1])
        rounded = numpy.empty((len(data), row // block * size), dtype=numpy.uint8)

        def part(start: int) -> None:
            floats = numpy.ascontiguousarray(
                _floats(data[start : start + _ROWS], tensor.tensor_type)
            )
            target = rounded[start : start + _ROWS]
            source, to = floats.ctypes.data, target.ctypes.data
            round_rows(int(kind), source, to, 0, len(floats), row, None)

        with ThreadPoolExecutor(num_threads) as threads:  # ctypes lets go of the interpreter
            list(threads.map(part, range(0, len(data), _ROWS)))
        return rounded.reshape(_stored(tensor, kind)[0])

    return quantize


def _floats(data: Any, kind: Any) -> Any:
    import gguf

    return gguf.quants.dequantize(data, kind)


def _library() -> ctypes.CDLL:
    """ggml, in the extension module of xllamacpp."""
    library = ctypes.CDLL(importlib.import_module("xllamacpp.xllamacpp").__file__ or "")
    if not hasattr(library, "ggml_quantize_chunk"):
        raise ConfigError(
            "export: this build of xllamacpp does not give away ggml_quantize_chunk, which rounds "
            "to K types; export with --quantize q8_0, or install the version of constraints.txt"
        )
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        *(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p),
        *(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p),
    ]
    return library
