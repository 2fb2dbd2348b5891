"""What coordinator and silos say to each other: immutable message types, one word for one thing.

Every message is one of :data:`Message`. Bodies (values, computations, results) are *blobs*: bytes named by their
digest that ride beside the message or on the bulk lane, never inside it.

Identifiers have a grammar (:data:`Name`, :data:`Id`, :data:`Digest`, :data:`Rule`): a message that breaks it is not
decoded. Every other string is text, and is made printable when it is decoded (see :mod:`fedbroker.wire.codec`).
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from fedbroker.wire.names import NAME

__all__ = [
    "Accepted",
    "Announce",
    "Call",
    "Chunk",
    "Column",
    "Compute",
    "Data",
    "Done",
    "Drop",
    "EndSession",
    "Failed",
    "Fetch",
    "Leave",
    "Message",
    "Need",
    "Op",
    "Rejected",
    "Select",
    "Source",
    "Struct",
    "Value",
    "WorkItem",
]

Ref: TypeAlias = int
"""The name of a value in a session, chosen by the coordinator, so that a whole stage is one message."""

Digest: TypeAlias = Annotated[str, Meta(pattern=r"\A[0-9a-f]{32}\Z")]
"""The content's name: 32 hexadecimal digits of its BLAKE3."""

Name: TypeAlias = Annotated[str, Meta(pattern=rf"\A{NAME}\Z")]
"""The name of a cohort, a silo, a coordinator or a session; see :mod:`fedbroker.wire.names`."""

Id: TypeAlias = Annotated[str, Meta(pattern=rf"\A({NAME})?\Z")]
"""A name, or nothing."""

Rule: TypeAlias = Annotated[str, Meta(pattern=r"\A[a-z0-9_.-]{0,64}\Z")]
"""A key of a silo's ``[policy]``, or nothing."""

SecretKey: TypeAlias = Annotated[str, Meta(pattern=r"\A([0-9a-f]{64})?\Z")]
"""32 bytes in hexadecimal digits, or nothing."""

MOST_ALARMS: Final = 16
"""Alarms of one reply."""


class Value(msgspec.Struct, frozen=True, array_like=True, tag="value"):
    """Create ``ref`` from a serialized executor ``Value``."""

    ref: Ref
    blob: Digest


class Data(msgspec.Struct, frozen=True, array_like=True, tag="data"):
    """Create ``ref``, clients-placed, from columns of the silo's own source ``name``.

    The value is ``<c0,c1,…>@CLIENTS``: a struct of arrays, one for each of ``columns`` in their order, for each client.

    Attributes:
        columns: name in the source (or, where it starts with ``#``, its position), and the dtype to hand over.
        scalar: each column has one row and is handed over without its first dimension.
    """

    ref: Ref
    name: str
    columns: tuple[tuple[str, str], ...]
    scalar: bool = False


class Struct(msgspec.Struct, frozen=True, array_like=True, tag="struct"):
    """Create ``ref`` as a struct of others; a name is empty where the element has none."""

    ref: Ref
    elements: tuple[tuple[str, Ref], ...]


class Select(msgspec.Struct, frozen=True, array_like=True, tag="select"):
    """Create ``ref`` as element ``index`` of ``source``."""

    ref: Ref
    source: Ref
    index: int


class Call(msgspec.Struct, frozen=True, array_like=True, tag="call"):
    """Create ``ref`` by calling ``function``; ``argument`` is None for one without parameter."""

    ref: Ref
    function: Ref
    argument: Ref | None


class Compute(msgspec.Struct, frozen=True, array_like=True, tag="compute"):
    """Materialize ``ref`` and send it back: the next output of the work item."""

    ref: Ref


class Drop(msgspec.Struct, frozen=True, array_like=True, tag="drop"):
    """Forget values."""

    refs: tuple[Ref, ...]


Op: TypeAlias = Value | Data | Struct | Select | Call | Compute | Drop


class Column(msgspec.Struct, frozen=True):
    """A column of a source.

    Attributes:
        name: as the source calls it.
        dtype: a numpy dtype name (``float64``, ``int32``, ``bool``, ``str``).
        shape: of one row: ``()`` for a scalar, ``(4,)`` for four numbers; None stands for a length that varies.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] = ()


class Source(msgspec.Struct, frozen=True):
    """What a silo announces of one of its data sources: never the data.

    Attributes:
        columns: in the source's order.
        rows: how many, or None where counting is too dear.
        clients: how many clients its data stands for.
    """

    columns: tuple[Column, ...]
    rows: int | None = None
    clients: int = 1


class Announce(msgspec.Struct, frozen=True, tag="announce"):
    """A silo says that it is there.

    Attributes:
        incarnation: differs for each start of the silo's process.
        heartbeat: seconds until it says so again.
        version: of the silo's distribution.
        capabilities: what it understands beyond the first version of the protocol.
        in_flight: work items that it has in hand.
    """

    cohort: Name
    silo: Name
    incarnation: Id
    heartbeat: float
    sources: dict[str, Source] = {}
    version: str = ""
    capabilities: tuple[str, ...] = ()
    in_flight: int = 0


class Leave(msgspec.Struct, frozen=True, tag="leave"):
    """A silo says that it goes."""

    cohort: Name
    silo: Name
    incarnation: Id


class Accepted(msgspec.Struct, frozen=True, tag="accepted"):
    """A coordinator takes a silo into its cohort: the answer to the first announcement of an incarnation."""

    coordinator: Name
    silo: Name
    incarnation: Id


class Rejected(msgspec.Struct, frozen=True, tag="rejected"):
    """A coordinator does not take a silo in.

    Attributes:
        reason: one line.
        retry: the silo asks again after a number of seconds that it picks from between these two, so that not all come
            back at once.
        never: asking again is of no use before the silo's administrator has changed something.
    """

    coordinator: Name
    silo: Name
    incarnation: Id
    reason: str
    retry: tuple[float, float]
    never: bool = False


class WorkItem(msgspec.Struct, frozen=True, tag="work"):
    """What one silo is asked to do for one client stage.

    Attributes:
        session: the session's id.
        stage: number of the client stage.
        silo: whom it is for.
        reply_to: the coordinator's key, first word of the reply's routing key.
        clients: how many clients the silo holds in this session; fixed at the session's first work item.
        program: run in order.
        fresh: digests that are on their way on the bulk lane, with their sizes in bytes; the silo waits for those,
            and answers ``need`` for any other that it lacks.
        seconds: time left for the stage when it was sent.
        lease: seconds after which the silo may forget the session if it hears no more of it.
        last: the session ends at this silo with the reply.
        hold: outputs beyond so many bytes are announced only, and sent when the coordinator asks; 0 sends any at once.
        sealed: those of ``fresh`` that come sealed: the digest of what comes, and whether to this silo alone.
        content: the session's key for what is sealed to all its silos, as hexadecimal digits; empty where nothing is.
    """

    session: Name
    stage: int
    silo: Name
    reply_to: Name
    clients: int
    program: tuple[Op, ...]
    fresh: dict[Digest, int]
    seconds: float
    lease: float
    last: bool
    hold: int = 0
    sealed: dict[Digest, tuple[Digest, bool]] = {}
    content: SecretKey = ""

    def __repr__(self) -> str:
        return f"WorkItem({self.session}.{self.stage}.{self.silo}, {len(self.program)} operations)"  # and no key


class Done(msgspec.Struct, frozen=True, tag="done"):
    """The silo's answer to a work item: the outputs, in the order of its ``compute`` operations.

    Attributes:
        outputs: digest and size in bytes of each.
        seconds: time spent at the silo, from receipt to answer.
        waited: the part of it that was spent waiting for blobs to come.
        held: the large outputs are not on their way, but wait for ``Fetch``.
        sealed: those outputs that come sealed, not with this message: the digest of what comes.
        alarms: what this silo has refused since its last answer, since nobody who may ask it had written that.
    """

    session: Name
    stage: int
    silo: Name
    incarnation: Id
    outputs: tuple[tuple[Digest, int], ...]
    seconds: float
    waited: float = 0.0
    held: bool = False
    sealed: dict[Digest, Digest] = {}
    alarms: Annotated[tuple[str, ...], Meta(max_length=MOST_ALARMS)] = ()


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The silo could not do it.

    Attributes:
        kind: ``data`` (source, column or query), ``computation`` (the C++ runtime said no), ``lost`` (the runtime died
            or the session is unknown here: its kept values are gone), ``refused`` (a bad or oversize work item),
            ``time`` (the stage's time was up).
        cause: one line.
        rule: of a refusal, the key of the silo's ``[policy]`` that forbids it; empty where it is none of those.
    """

    session: Name
    stage: int
    silo: Name
    incarnation: Id
    kind: Literal["data", "computation", "lost", "refused", "time"]
    cause: str
    hint: str = ""
    rule: Rule = ""


class Need(msgspec.Struct, frozen=True, tag="need"):
    """The silo lacks blobs; it has dropped the work item, which is to be sent again with them."""

    session: Name
    stage: int
    silo: Name
    incarnation: Id
    digests: tuple[Digest, ...]


class Fetch(msgspec.Struct, frozen=True, tag="fetch"):
    """The coordinator has room for the outputs that a silo holds.

    Attributes:
        wanted: False: nobody waits for them, and the silo need not hold them any more.
    """

    session: Name
    stage: int
    incarnation: Id
    wanted: bool = True


class EndSession(msgspec.Struct, frozen=True, tag="end"):
    """The coordinator gives a session up before its last stage, or goes on without this silo.

    Attributes:
        incarnation: whom it is for; a silo that was started again since may have a part in the session anew. Empty for
            whoever has the name.
    """

    session: Name
    incarnation: Id = ""


class Chunk(msgspec.Struct, frozen=True, tag="chunk"):
    """A piece of a blob; its bytes, or what they were coded into, are the message's only attachment.

    Attributes:
        digest: of the whole blob.
        size: of the whole blob, in bytes.
        offset: where this piece starts.
        coding: of the attachment: as it is, or one zstd frame with the size of its content. Digest, size and offset
            are of the content.
    """

    digest: Digest
    size: int
    offset: int
    coding: Literal["", "zstd"] = ""


Reply: TypeAlias = Done | Failed | Need
Message: TypeAlias = (
    Announce | Leave | Accepted | Rejected | WorkItem | Done | Failed | Need | Fetch | EndSession | Chunk
)
