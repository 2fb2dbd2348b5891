from collections.abc import Callable
from typing import Any

from sqlalchemy.engine import Engine

def listen(target: Engine, identifier: str, fn: Callable[[Any, object], object]) -> None: ...
