"""One AMQP channel: requests to the broker, with the library's errors translated in one place."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, NamedTuple, Self, TypeVar, cast

import aio_pika.abc
import aiormq.abc
import aiormq.exceptions
from pamqp import commands

from fedbroker.transport.amqp.dial import Connected
from fedbroker.transport.amqp.exceptions import (
    ConnectionLost,
    Nacked,
    Unroutable,
    first_line,
    guarded,
    refused,
    translated,
)
from fedbroker.transport.amqp.message import Delivery, Outgoing
from fedbroker.transport.topology import Binding, Exchange, Queue

__all__ = ["Channel", "Consumer", "QueueState"]

_T = TypeVar("_T")


class QueueState(NamedTuple):
    """The state of an existing queue.

    Attributes:
        messages: number of ready messages.
        consumers: number of consumers.
    """

    messages: int
    consumers: int


@dataclass(frozen=True, slots=True)
class Consumer:
    """A consumer that can be stopped."""

    _channel: aiormq.abc.AbstractChannel
    _tag: str

    async def cancel(self) -> None:
        """Stop new deliveries. Messages that were already delivered can still be acknowledged.

        Raises:
            ConnectionLost: the connection ended, and the consumer with it.
        """
        try:
            await guarded(self._channel.basic_cancel(self._tag))
        except Exception as error:
            raise ConnectionLost(first_line(error)) from None


class Channel:
    """An open channel. The broker closes it with each refusal; it ends with its connection.

    The owner must keep a reference to it: the library only has weak ones. Unless a method says otherwise, it raises the
    errors of :func:`fedbroker.transport.amqp.exceptions.translated`.
    """

    def __init__(self, owner: aio_pika.abc.AbstractChannel, amqp: aiormq.abc.AbstractChannel) -> None:
        self._owner = owner
        self._amqp = amqp

    @classmethod
    async def open(cls, connected: Connected, *, confirms: bool = False) -> Self:
        """Open a channel; with ``confirms``, for publishing.

        Raises:
            ConnectionLost: the connection ended.
        """
        try:
            owner = connected.amqp.channel(publisher_confirms=confirms, on_return_raises=confirms)
            await guarded(owner.initialize())
            return cls(owner, await owner.get_underlay_channel())
        except Exception as error:
            raise ConnectionLost(first_line(error)) from None

    @property
    def closing(self) -> asyncio.Future[object]:
        """Done when the channel has closed."""
        return cast("asyncio.Future[object]", self._amqp.closing)  # pyright: ignore[reportUnknownMemberType] aiormq

    async def declare_exchange(self, exchange: Exchange) -> None:
        """Declare an exchange."""
        declaring = self._amqp.exchange_declare(exchange.name, exchange_type=exchange.kind, durable=True)
        await _answer(declaring, f"exchange {exchange.name!r}")

    async def check_exchange(self, exchange: Exchange) -> None:
        """Check that an exchange exists. A passive declaration needs no permission."""
        await _answer(self._amqp.exchange_declare(exchange.name, passive=True), f"exchange {exchange.name!r}")

    async def declare_queue(self, queue: Queue) -> None:
        """Declare a queue, without its bindings."""
        declaring = self._amqp.queue_declare(
            queue.name, durable=not queue.exclusive, exclusive=queue.exclusive, arguments=dict(queue.arguments)
        )
        await _answer(declaring, f"queue {queue.name!r}")

    async def bind(self, queue: Queue, binding: Binding) -> None:
        """Bind a queue."""
        await _answer(self._amqp.queue_bind(queue.name, binding.exchange.name, binding.key), f"queue {queue.name!r}")

    async def inspect(self, queue: Queue) -> QueueState:
        """Return the state of a queue. A passive declaration needs no permission."""
        state = await _answer(self._amqp.queue_declare(queue.name, passive=True), f"queue {queue.name!r}")
        return QueueState(state.message_count or 0, state.consumer_count or 0)

    async def get(self, queue: Queue) -> Delivery | None:
        """Take the first ready message of a queue; return None if it has none."""
        message = await _answer(self._amqp.basic_get(queue.name), f"queue {queue.name!r}")
        return Delivery.of(message) if isinstance(message.delivery, commands.Basic.GetOk) else None

    async def responds(self, queue: Queue, seconds: float) -> bool:
        """Return whether a queue answers in time, and close the channel; a quorum queue without a leader does not.

        Raises:
            ConnectionLost: the connection ended.
        """
        try:
            async with asyncio.timeout(seconds):
                await guarded(self._amqp.basic_get(queue.name))
                await guarded(self._amqp.close())  # requeues the message, if the queue had one
        except (TimeoutError, aiormq.exceptions.ChannelClosed):
            return False
        except Exception as error:
            raise ConnectionLost(first_line(error)) from None
        return True

    async def requeue(self, tag: int) -> None:
        """Put a message back into its queue, by its delivery tag. The broker does not confirm it."""
        await _answer(self._amqp.basic_nack(tag, requeue=True), "a message")

    async def purge(self, queue: Queue) -> int:
        """Delete the ready messages of a queue and return their number."""
        purged = await _answer(self._amqp.queue_purge(queue.name), f"queue {queue.name!r}")
        return purged.message_count or 0

    async def delete(self, queue: Queue) -> None:
        """Delete a queue, even if it holds messages or has consumers."""
        await _answer(self._amqp.queue_delete(queue.name), f"queue {queue.name!r}")

    async def consume(
        self,
        queue: Queue,
        on_message: Callable[[aiormq.abc.DeliveredMessage], Coroutine[Any, Any, None]],
        on_cancel: Callable[[], None],
        *,
        prefetch: int,
        exclusive: bool,
    ) -> Consumer:
        """Consume a queue; ``on_cancel`` is called when the broker cancels the consumer.

        With ``prefetch=0`` nothing is to be acknowledged: the broker forgets each message that it has sent.
        """
        self._amqp.on_consumer_cancel_callbacks.add(lambda _: on_cancel())
        if prefetch:
            await _answer(self._amqp.basic_qos(prefetch_count=prefetch), "prefetch")
        consuming = self._amqp.basic_consume(queue.name, on_message, exclusive=exclusive, no_ack=not prefetch)
        answer = await _answer(consuming, f"queue {queue.name!r}")
        return Consumer(self._amqp, str(answer.consumer_tag))

    async def publish(self, message: Outgoing) -> None:
        """Publish a message and await the broker's confirmation.

        Raises:
            Unroutable: the message is mandatory and matches no queue.
            Nacked: the broker did not accept the message.
            ConnectionLost: the channel ended before the confirmation; its ``refusal`` is the broker's, if it gave one.
        """
        expiration = message.expiration
        publishing = self._amqp.basic_publish(
            message.body,
            exchange=message.exchange.name,
            routing_key=message.key,
            properties=commands.Basic.Properties(
                delivery_mode=2 if message.persistent else 1,
                correlation_id=message.correlation_id,
                message_id=message.message_id,
                expiration=None if expiration is None else str(max(0, round(expiration * 1000))),
                headers=dict(message.headers) or None,
            ),
            mandatory=message.mandatory,
        )
        try:
            await guarded(publishing)
        except aiormq.exceptions.PublishError:
            raise Unroutable(message.key) from None
        except aiormq.exceptions.DeliveryError:
            raise Nacked(message.key) from None
        except Exception as error:
            raise ConnectionLost(first_line(error), refused(error, f"exchange {message.exchange.name!r}")) from None

    async def close(self) -> None:
        """Close the channel; the broker requeues the messages that were not settled."""
        await _answer(self._amqp.close(), "a channel")


async def _answer(request: Awaitable[_T], what: str) -> _T:
    """Await the broker's answer to a request that concerns ``what``."""
    try:
        return await guarded(request)
    except Exception as error:
        raise translated(error, what) from None
