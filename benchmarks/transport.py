"""The cost of the transport: round trips, blobs and broadcasts, next to bare aio-pika on the same broker.

    python benchmarks/transport.py [--url URL] [--json] [--requests N] [--mib SIZE ...] [--silos N]

Silos are separate processes, as in practice. Without ``--url`` a private broker is started.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import secrets
import statistics
import sys
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Event

import aio_pika

from fedbroker.broker import PrivateBroker
from fedbroker.deadline import Deadline
from fedbroker.transport import CoordinatorTransport, Signed, SiloTransport
from fedbroker.wire import digest_of
from fedbroker.wire.messages import Announce, Done, Value, WorkItem

MIB = 1024 * 1024
COHORT = "bench"
PATIENCE = 120.0


def silo_process(url: str, name: str, ready: Event, stop: Event) -> None:
    """Run a silo that replies once it has every blob; ``Done.duration`` is the CPU time of its process so far."""

    async def run() -> None:
        async def answer(item: WorkItem, _: Signed) -> None:
            deadline = Deadline.after(PATIENCE)
            for op in item.ops:
                if isinstance(op, Value):
                    await end.blobs.get(op.blob, deadline, PATIENCE)
                    end.blobs.discard(op.blob)
            done = Done(item.session_id, item.stage, name, "i", (), time.process_time())
            await end.reply(item, done, {}, deadline)

        end = SiloTransport(
            url,
            COHORT,
            name,
            announcement=lambda: Announce(COHORT, name, "i", 5.0),
            on_work=answer,
            on_session_end=lambda *_: None,
        )
        await end.open(Deadline.after(20))
        ready.set()
        await asyncio.to_thread(stop.wait)
        await end.close()

    asyncio.run(run())


def bare_process(url: str, queue: str, ready: Event, stop: Event) -> None:
    """Run a plain aio-pika consumer that replies to each message with an empty one."""

    async def run() -> None:
        async with await aio_pika.connect(url) as connection:
            channel = await connection.channel()
            await channel.set_qos(16)

            async def answer(message: aio_pika.abc.AbstractIncomingMessage) -> None:
                reply = aio_pika.Message(b"", correlation_id=message.correlation_id)
                await channel.default_exchange.publish(reply, message.reply_to or "")
                await message.ack()

            declared = await channel.declare_queue(queue, durable=True)
            tag = await declared.consume(answer)
            ready.set()
            await asyncio.to_thread(stop.wait)
            await declared.cancel(tag)
            await channel.queue_delete(queue)

    asyncio.run(run())


@contextlib.contextmanager
def processes(url: str, silos: int, bare: str) -> Iterator[None]:
    """Run the silos and the bare consumer."""
    spawn = multiprocessing.get_context("spawn")
    stop = spawn.Event()
    targets = [(silo_process, f"silo{number}") for number in range(silos)] + [(bare_process, bare)]
    started = []
    try:
        for target, name in targets:
            ready = spawn.Event()
            process = spawn.Process(target=target, args=(url, name, ready, stop))
            process.start()
            started.append((process, ready))
        for process, ready in started:
            if not ready.wait(30):
                raise RuntimeError(f"{process.name} did not start")
        yield
    finally:
        stop.set()
        for process, _ in started:
            process.join(10)
            if process.is_alive():
                process.kill()


class Bench:
    """A coordinator that measures."""

    def __init__(self, end: CoordinatorTransport, names: list[str]) -> None:
        self._end = end
        self._names = names
        self._stage = 0
        self._cpu_of_silo: dict[str, float] = {}

    async def ask(self, silo: str, blobs: dict[str, int] | None = None) -> float:
        """Send one request; return the CPU seconds that the silo took since the last one."""
        self._stage += 1
        program = tuple(Value(at, digest) for at, digest in enumerate(blobs or {}))
        item = WorkItem(
            "bench", self._stage, silo, self._end.coordinator_id, 1, program, blobs or {}, PATIENCE, PATIENCE, False
        )
        done = await self._end.request(item, {}, Deadline.after(PATIENCE))
        if not isinstance(done, Done):
            raise RuntimeError(f"no answer: {done}")
        before, self._cpu_of_silo[silo] = self._cpu_of_silo.get(silo, done.duration), done.duration
        return done.duration - before

    async def round_trips(self, requests: int) -> list[float]:
        """Return the seconds of each of ``requests`` small requests, one after another."""
        times = []
        for _ in range(requests):
            started = time.perf_counter()
            await self.ask(self._names[0])
            times.append(time.perf_counter() - started)
        return times

    async def blob(self, mib: int, *, everybody: bool = False) -> dict[str, float]:
        """Send one blob, and wait until each receiving silo has replied that it has all of it."""
        data = os.urandom(mib * MIB)
        digest = digest_of(data)
        silos = self._names if everybody else self._names[:1]
        for silo in silos:
            await self.ask(silo)
        cpu, started = time.process_time(), time.perf_counter()
        await self._end.send_blob(digest, data, silo=None if everybody else silos[0], deadline=Deadline.after(PATIENCE))
        sent = time.perf_counter() - started
        cpu = time.process_time() - cpu
        theirs = await asyncio.gather(*(self.ask(silo, {digest: len(data)}) for silo in silos))
        return {
            "seconds": time.perf_counter() - started,
            "sent": sent,
            "cpu_sender": cpu,
            "cpu_receiver": statistics.mean(theirs),
        }


async def bare_round_trips(url: str, queue: str, requests: int, body: bytes = b"x" * 300) -> list[float]:
    """Return the same with plain aio-pika: confirms, a classic queue, transient messages."""
    times = []
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        callback = await channel.declare_queue(f"{queue}.callback", exclusive=True)
        waiting: dict[str, asyncio.Future[None]] = {}

        async def settle(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            waiting.pop(message.correlation_id or "").set_result(None)

        await callback.consume(settle, no_ack=True)
        for number in range(requests):
            started = time.perf_counter()
            waiting[str(number)] = future = asyncio.get_running_loop().create_future()
            message = aio_pika.Message(body, correlation_id=str(number), reply_to=callback.name)
            await channel.default_exchange.publish(message, queue)
            await future
            times.append(time.perf_counter() - started)
    return times


async def measure(url: str, requests: int, sizes: list[int], silos: int, bare: str) -> dict[str, dict[str, float]]:
    """Return every figure, in seconds."""
    names = [f"silo{number}" for number in range(silos)]
    end = CoordinatorTransport(url, COHORT, on_announce=lambda _: None, on_leave=lambda _: None)
    started = time.perf_counter()
    await end.open(Deadline.after(20))
    figures: dict[str, dict[str, float]] = {"coordinator opens": {"seconds": time.perf_counter() - started}}
    try:
        bench = Bench(end, names)
        await bench.round_trips(20)
        ours: list[float] = []
        plain: list[float] = []
        for _ in range(4):  # in turns, so that load affects both alike
            ours += await bench.round_trips(requests // 4)
            plain += await bare_round_trips(url, bare, requests // 4)
        for name, times in (("small request", ours), ("small request, bare aio-pika", plain)):
            quantiles = statistics.quantiles(times, n=100)
            figures[name] = {"seconds": statistics.median(times), "p99": quantiles[98]}
        for size in sizes:
            runs = [await bench.blob(size) for _ in range(3)]
            figures[f"blob {size} MiB to one"] = min(runs, key=lambda run: run["seconds"])
            if size < 128:
                bodies = [await bare_round_trips(url, bare, 1, bytes(size * MIB)) for _ in range(3)]
                figures[f"message {size} MiB, bare aio-pika"] = {"seconds": min(body[0] for body in bodies)}
            runs = [await bench.blob(size, everybody=True) for _ in range(2)]
            figures[f"blob {size} MiB to {silos}"] = min(runs, key=lambda run: run["seconds"])
    finally:
        await end.close()
    return figures


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description="Cost of the transport.")
    arguments.add_argument("--url", help="a broker; a private one is started without it")
    arguments.add_argument("--json", action="store_true", help="print JSON")
    arguments.add_argument("--requests", type=int, default=400)
    arguments.add_argument("--mib", type=int, nargs="+", default=[1, 10, 100])
    arguments.add_argument("--silos", type=int, default=4)
    given = arguments.parse_args()
    with contextlib.ExitStack() as stack:
        url = given.url or stack.enter_context(PrivateBroker()).url
        bare = f"bench.{secrets.token_hex(4)}"
        stack.enter_context(processes(url, given.silos, bare))
        figures = asyncio.run(measure(url, given.requests, given.mib, given.silos, bare))
    if given.json:
        json.dump(figures, sys.stdout, indent=2)
        print()
        return
    columns = ("seconds", "sent", "cpu_sender", "cpu_receiver", "p99")
    print(f"{'milliseconds':34}" + "".join(f"{column:>14}" for column in columns))
    for name, row in figures.items():
        print(f"{name:34}" + "".join(f"{row[c] * 1000:14.2f}" if c in row else " " * 14 for c in columns))


if __name__ == "__main__":
    main()
