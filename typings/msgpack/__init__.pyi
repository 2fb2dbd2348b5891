from collections.abc import Iterator
from typing import Any, BinaryIO

class UnpackException(Exception): ...

def packb(o: object, *, use_bin_type: bool = True) -> bytes: ...
def unpackb(
    packed: bytes | bytearray | memoryview,
    *,
    raw: bool = False,
    use_list: bool = True,
    strict_map_key: bool = True,
    max_str_len: int = ...,
    max_bin_len: int = ...,
    max_array_len: int = ...,
    max_map_len: int = ...,
    max_ext_len: int = ...,
) -> Any: ...

class Unpacker(Iterator[Any]):
    def __init__(
        self, file_like: BinaryIO | None = None, *, strict_map_key: bool = True, max_buffer_size: int = ...
    ) -> None: ...
    def __next__(self) -> Any: ...
