from sqlalchemy import event as event
from sqlalchemy import exc as exc
from sqlalchemy.engine import URL, Engine

def create_engine(url: URL, *, poolclass: type[object]) -> Engine: ...
