"""Messages between coordinator and silos: immutable types.

Every message is one of :data:`Message`. Bodies (values, computations, results) are *blobs*: bytes addressed by their
digest that travel as attachments or on the bulk connection, never inside the message.

Identifiers have a grammar (:data:`Name`, :data:`Id`, :data:`Digest`, :data:`Rule`): a message that breaks it is not
decoded. Every other string is text, and is made printable when it is decoded (see :mod:`fedbroker.wire.codec`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, ClassVar, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta

from fedbroker.errors import ConfigError

__all__ = [
    "MAX_COMPUTATION_NAME",
    "NAME",
    "SHUFFLE",
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
    "ErrorType",
    "Failed",
    "Fetch",
    "Leave",
    "MaskNotice",
    "MaskReply",
    "Message",
    "Need",
    "Op",
    "OptionalDigest",
    "Rejected",
    "Seeds",
    "Select",
    "Source",
    "Struct",
    "Value",
    "WorkItem",
    "blobs_of",
    "check_name",
    "is_name",
]

NAME: Final = "[a-z0-9][a-z0-9_-]{0,62}"
"""The regular expression of a name: names are words of routing keys, so they contain no dot and no wildcard."""

_NAME: Final = re.compile(NAME)


def is_name(value: str) -> bool:
    """Return whether ``value`` is 1 to 63 of ``a-z 0-9 _ -``, the first a letter or a digit."""
    return _NAME.fullmatch(value) is not None


def check_name(kind: str, value: object) -> str:
    """Return the name if it is valid.

    Args:
        kind: the kind of thing that it names, for the error: ``"silo"``, ``"cohort"``.
        value: the name.

    Raises:
        ConfigError: the name is empty, too long, or contains other characters than ``a-z 0-9 _ -``.
    """
    # Not every caller is type-checked.
    if isinstance(value, str) and is_name(value):  # pyright: ignore[reportUnnecessaryIsInstance]
        return value
    raise ConfigError(
        f"{value!r} is not a name for a {kind}",
        hint="use 1 to 63 of a-z, 0-9, '_' and '-', starting with a letter or a digit",
    )


Ref: TypeAlias = int
"""The number of a value in a session. The coordinator chooses it, so that a whole stage fits in one message."""

Digest: TypeAlias = Annotated[str, Meta(pattern=r"\A[0-9a-f]{32}\Z")]
"""The address of a blob: 32 hexadecimal digits of its BLAKE3 hash."""

OptionalDigest: TypeAlias = Annotated[str, Meta(pattern=r"\A([0-9a-f]{32})?\Z")]
"""The address of a blob, or empty."""

Name: TypeAlias = Annotated[str, Meta(pattern=rf"\A{NAME}\Z")]
"""The name of a cohort or a silo, or the id of a coordinator or a session; see :data:`NAME`."""

Id: TypeAlias = Annotated[str, Meta(pattern=rf"\A({NAME})?\Z")]
"""A name, or empty."""

Rule: TypeAlias = Annotated[str, Meta(pattern=r"\A[a-z0-9_.-]{0,64}\Z")]
"""A key of a silo's ``[policy]``, or empty."""

SecretKey: TypeAlias = Annotated[str, Meta(pattern=r"\A([0-9a-f]{64})?\Z")]
"""32 bytes in hexadecimal digits, or empty."""

PublicKey: TypeAlias = SecretKey
"""A public X25519 key in hexadecimal digits, or empty."""

Signature: TypeAlias = Annotated[str, Meta(pattern=r"\A([0-9a-f]{128})?\Z")]
"""An Ed25519 signature in hexadecimal digits, or empty."""

MAX_COMPUTATION_NAME: Final = 200
"""Maximum number of characters of a computation's name: enough for a function's name, short in a log."""

ComputationName: TypeAlias = Annotated[str, Meta(max_length=MAX_COMPUTATION_NAME)]
"""Text in one printable line, or empty. The coordinator's claim: nothing depends on it."""

MAX_FORGERY_REPORTS: Final = 16
"""Maximum number of forgery reports in one reply."""


class Value(msgspec.Struct, frozen=True, array_like=True, tag="value"):
    """Create ``ref`` from a serialized executor ``Value``."""

    ref: Ref
    blob: Digest
    uses: ClassVar[tuple[Ref, ...]] = ()


class Data(msgspec.Struct, frozen=True, array_like=True, tag="data"):
    """Create ``ref``, clients-placed, from columns of the silo's own source ``name``.

    The value is ``<c0,c1,…>@CLIENTS``: a struct of arrays, one for each of ``columns`` in their order, for each client.

    Attributes:
        columns: pairs of a column's name in the source (or its position, if it starts with ``#``) and the dtype to
            deliver.
        scalar: each column has one row and is passed without its first dimension.
    """

    ref: Ref
    name: str
    columns: tuple[tuple[str, str], ...]
    scalar: bool = False
    uses: ClassVar[tuple[Ref, ...]] = ()


class Seeds(msgspec.Struct, frozen=True, array_like=True, tag="seeds"):
    """Create ``ref``, clients-placed, as a seed of two ``int64`` for each client, by which a binder shuffles its rows.

    The value is ``<int64[2]>@CLIENTS``. The silo derives it from ``order``, its own name, the client's number and its
    secret key, if it has one (:mod:`fedbroker_worker.sources.seeds`). So silos are asked for the same work, as masked
    sums require, and shuffle differently.

    Attributes:
        order: 32 hexadecimal digits, which differ in each round.
    """

    ref: Ref
    order: Digest
    uses: ClassVar[tuple[Ref, ...]] = ()


class Struct(msgspec.Struct, frozen=True, array_like=True, tag="struct"):
    """Create ``ref`` as a struct of others; an element without a name has an empty one."""

    ref: Ref
    elements: tuple[tuple[str, Ref], ...]

    @property
    def uses(self) -> tuple[Ref, ...]:
        """The values that it uses."""
        return tuple([ref for _, ref in self.elements])


class Select(msgspec.Struct, frozen=True, array_like=True, tag="select"):
    """Create ``ref`` as element ``index`` of ``source``."""

    ref: Ref
    source: Ref
    index: int

    @property
    def uses(self) -> tuple[Ref, ...]:
        """The value that it uses."""
        return (self.source,)


class Call(msgspec.Struct, frozen=True, array_like=True, tag="call"):
    """Create ``ref`` by calling ``function``; ``argument`` is None for a function without parameter."""

    ref: Ref
    function: Ref
    argument: Ref | None

    @property
    def uses(self) -> tuple[Ref, ...]:
        """The values that it uses."""
        return (self.function,) if self.argument is None else (self.function, self.argument)


class Compute(msgspec.Struct, frozen=True, array_like=True, tag="compute"):
    """Compute ``ref`` and send its value: the next output of the work item."""

    ref: Ref

    @property
    def uses(self) -> tuple[Ref, ...]:
        """The value that it uses."""
        return (self.ref,)


class Drop(msgspec.Struct, frozen=True, array_like=True, tag="drop"):
    """Forget values."""

    refs: tuple[Ref, ...]

    @property
    def uses(self) -> tuple[Ref, ...]:
        """The values that it forgets."""
        return self.refs


SHUFFLE: Final = "shuffle/1"
"""The capability of a silo that knows :class:`Seeds`."""

Op: TypeAlias = Value | Data | Seeds | Struct | Select | Call | Compute | Drop
"""Each operation has ``uses``: the values that must exist before it runs."""


def blobs_of(ops: Iterable[Op]) -> tuple[Digest, ...]:
    """Return the digests of the blobs that operations name, each once."""
    return tuple(dict.fromkeys([op.blob for op in ops if isinstance(op, Value)]))


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
    """The description of a data source that a silo announces: never the data.

    Attributes:
        columns: in the source's order.
        rows: their number, or None if counting is too expensive.
        clients: the number of clients whose data it holds.
    """

    columns: tuple[Column, ...]
    rows: int | None = None
    clients: int = 1


class Announce(msgspec.Struct, frozen=True, tag="announce"):
    """A silo's announcement that it is running.

    Attributes:
        incarnation: differs for each start of the silo's process.
        heartbeat: seconds until the next announcement.
        version: of the silo's distribution.
        capabilities: features that the silo supports beyond the first version of the protocol.
        in_flight: number of work items in progress.
        sealed_only: the silo rejects work and notices that are not sealed.
        mask_key: the incarnation's public key for masked sums; empty if the silo takes part in none.
        mask_signature: the silo's signature over it; see :class:`fedbroker.masking.members.Member`.
    """

    cohort: Name
    silo: Name
    incarnation: Id
    heartbeat: float
    sources: dict[str, Source] = {}
    version: str = ""
    capabilities: tuple[str, ...] = ()
    in_flight: int = 0
    sealed_only: bool = False
    mask_key: PublicKey = ""
    mask_signature: Signature = ""


class Leave(msgspec.Struct, frozen=True, tag="leave"):
    """A silo's notice that it is leaving."""

    cohort: Name
    silo: Name
    incarnation: Id


class Accepted(msgspec.Struct, frozen=True, tag="accepted"):
    """A coordinator's admission of a silo: the answer to the first announcement of an incarnation."""

    coordinator_id: Name
    silo: Name
    incarnation: Id


class Rejected(msgspec.Struct, frozen=True, tag="rejected"):
    """A coordinator's rejection of a silo.

    Attributes:
        reason: one line.
        retry_after: bounds in seconds; the silo announces itself again after a random time between them, so that silos
            do not all come back at once.
        permanent: retrying is of no use before the silo's administrator has changed something.
    """

    coordinator_id: Name
    silo: Name
    incarnation: Id
    reason: str
    retry_after: tuple[float, float]
    permanent: bool = False


class WorkItem(msgspec.Struct, frozen=True, tag="work"):
    """The work that one silo is asked to do for one client stage.

    Attributes:
        session_id: id of the session.
        stage: number of the client stage.
        silo: the silo that it is for.
        coordinator_id: the first word of the reply's routing key.
        clients: number of clients that the silo holds in this session; fixed at the session's first work item.
        ops: the operations, run in order.
        incoming: digests of blobs that are on their way on the bulk connection, with their sizes in bytes; the silo
            waits for these, and replies ``need`` for any other blob that it lacks.
        timeout: seconds left for the stage when the work item was sent.
        lease: seconds after which the silo may forget the session if it gets no further message of it.
        ends_session: the session ends at this silo with the reply.
        defer_above: outputs of more bytes than this are only announced, and sent when the coordinator asks; 0 sends all
            at once.
        sealed: the blobs of ``incoming`` that are sealed: the digest of the sealed bytes, and whether to this silo
            alone.
        content_key: the session's key for blobs sealed to all its silos, as hexadecimal digits; empty if none is
            sealed.
        computation: the computation's name, as the coordinator claims, for the silo's audit log; empty from a
            coordinator of an earlier version.
        masking: the blob that says which outputs the silo masks, and with whom
            (:class:`fedbroker.masking.request.MaskingRequest`); empty if it masks none.
    """

    session_id: Name
    stage: int
    silo: Name
    coordinator_id: Name
    clients: int
    ops: tuple[Op, ...]
    incoming: dict[Digest, int]
    timeout: float
    lease: float
    ends_session: bool
    defer_above: int = 0
    sealed: dict[Digest, tuple[Digest, bool]] = {}
    content_key: SecretKey = ""
    computation: ComputationName = ""
    masking: OptionalDigest = ""

    @property
    def blobs(self) -> tuple[Digest, ...]:
        """The digests of the blobs that its operations name and of its masking, each once."""
        named = blobs_of(self.ops)
        return (*named, self.masking) if self.masking else named

    @property
    def reads(self) -> tuple[Data, ...]:
        """Its operations that read the silo's data, each once."""
        return tuple(dict.fromkeys([op for op in self.ops if isinstance(op, Data)]))

    def __repr__(self) -> str:
        return f"WorkItem({self.session_id}.{self.stage}.{self.silo}, {len(self.ops)} operations)"  # not the key


class Done(msgspec.Struct, frozen=True, tag="done"):
    """A silo's reply to a work item: the outputs, in the order of its ``compute`` operations.

    Attributes:
        outputs: digest and size in bytes of each.
        duration: seconds spent at the silo, from receipt to reply.
        blob_wait: the part of it that was spent waiting for blobs.
        deferred: the large outputs are not on their way, but wait for ``Fetch``.
        sealed: the outputs that are sealed and not attached: the digest of the sealed bytes.
        forgery_reports: forged messages that this silo rejected since its last reply.
    """

    session_id: Name
    stage: int
    silo: Name
    incarnation: Id
    outputs: tuple[tuple[Digest, int], ...]
    duration: float
    blob_wait: float = 0.0
    deferred: bool = False
    sealed: dict[Digest, Digest] = {}
    forgery_reports: Annotated[tuple[str, ...], Meta(max_length=MAX_FORGERY_REPORTS)] = ()


ErrorType: TypeAlias = Literal["data", "computation", "lost", "refused", "timeout"]


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """A silo's reply that the work item failed.

    Attributes:
        error_type: ``data`` (source, column or query), ``computation`` (the C++ runtime raised an error), ``lost`` (the
            runtime died or the silo does not know the session: the values it kept are gone), ``refused`` (an invalid or
            oversize work item, or one that the silo's policy forbids), ``timeout`` (the stage's time was up).
        cause: one line.
        rule: of a refusal, the key of the silo's ``[policy]`` that refused it; empty if no rule of the policy did.
    """

    session_id: Name
    stage: int
    silo: Name
    incarnation: Id
    error_type: ErrorType
    cause: str
    hint: str = ""
    rule: Rule = ""


class Need(msgspec.Struct, frozen=True, tag="need"):
    """A silo's reply that it lacks blobs. It has dropped the work item; the coordinator sends it again with them."""

    session_id: Name
    stage: int
    silo: Name
    incarnation: Id
    digests: tuple[Digest, ...]


class Fetch(msgspec.Struct, frozen=True, tag="fetch"):
    """A coordinator's request for the outputs that a silo holds.

    Attributes:
        wanted: False if the outputs are no longer needed: the silo may drop them.
    """

    session_id: Name
    stage: int
    incarnation: Id
    wanted: bool = True


class EndSession(msgspec.Struct, frozen=True, tag="end"):
    """A coordinator's notice that a session ends before its last stage, or continues without this silo.

    Attributes:
        incarnation: the incarnation that it is for; a silo that has restarted since may be part of the session again.
            Empty for any incarnation of the silo.
    """

    session_id: Name
    incarnation: Id = ""


class Chunk(msgspec.Struct, frozen=True, tag="chunk"):
    """A part of a blob; its bytes, compressed or not, are the message's only attachment.

    Attributes:
        digest: of the whole blob.
        size: of the whole blob, in bytes.
        offset: where this chunk starts.
        coding: of the attachment: none, or one zstd frame with the size of its content. Digest, size and offset are of
            the content.
    """

    digest: Digest
    size: int
    offset: int
    coding: Literal["", "zstd"] = ""


class MaskReply(msgspec.Struct, frozen=True, tag="mask_reply"):
    """A silo's message of a masked sum from which silos may drop out; its content is the only attachment.

    Attributes:
        step: ``offer`` (keys and shares that it deals), ``signature`` (under the list of survivors), ``shares`` (those
            that remove masks), ``refused`` (it does not answer the coordinator's notice, and why); see
            :mod:`fedbroker.masking.steps` for the contents.
    """

    session_id: Name
    stage: int
    silo: Name
    incarnation: Id
    step: Literal["offer", "signature", "shares", "refused"]


class MaskNotice(msgspec.Struct, frozen=True, tag="mask_notice"):
    """A coordinator's message of a masked sum from which silos may drop out; its content is the only attachment.

    Attributes:
        step: ``sharing`` (the offers of all that share the stage), ``survivors`` (the list to be signed), ``unmask``
            (the signatures under it).
    """

    session_id: Name
    stage: int
    incarnation: Id
    step: Literal["sharing", "survivors", "unmask"]


Reply: TypeAlias = Done | Failed | Need
Message: TypeAlias = (
    Announce
    | Leave
    | Accepted
    | Rejected
    | WorkItem
    | Done
    | Failed
    | Need
    | Fetch
    | EndSession
    | Chunk
    | MaskReply
    | MaskNotice
)
