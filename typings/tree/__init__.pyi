from collections.abc import Callable
from typing import Any

def traverse(fn: Callable[[Any], object | None], structure: object) -> Any: ...
