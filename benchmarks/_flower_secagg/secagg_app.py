"""A round of averaging as a Flower app with SecAgg+, the same as ``secure_averaging`` is in TFF."""

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.client import NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.common import Context, Message, Parameters, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.common.serde import message_to_proto
from flwr.server import LegacyContext, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.serverapp import Grid, ServerApp

server = ServerApp()


class Client(NumPyClient):
    """A client whose update is the model."""

    def fit(self, parameters: list[np.ndarray], config: dict) -> tuple[list[np.ndarray], int, dict]:
        """Return an update of the model's size."""
        return [parameters[0] * np.float32(1)], 1, {}


client = ClientApp(client_fn=lambda context: Client().to_client(), mods=[secaggplus_mod])


class Counted:
    """A grid that counts the bytes of replies, in one round."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self.bytes = 0

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._grid, name)

    def send_and_receive(self, messages: Iterable[Message], **options: Any) -> list[Message]:  # noqa: ANN401
        """Send messages and return their replies."""
        replies = list(self._grid.send_and_receive(messages, **options))
        self.bytes += sum(message_to_proto(reply).ByteSize() for reply in replies)
        return replies


class Timed(SecAggPlusWorkflow):
    """The workflow, with the seconds of each round; the first is to warm up, and its bytes are counted."""

    seconds = ()
    bytes = 0

    def __call__(self, grid: Grid, context: Context) -> None:
        """Run one round."""
        if not self.seconds:
            grid = Counted(grid)
        start = time.perf_counter()
        super().__call__(grid, context)
        self.seconds = (*self.seconds, time.perf_counter() - start)
        if isinstance(grid, Counted):
            self.bytes = grid.bytes


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run rounds after one to warm up; write the seconds of each and the bytes of one as JSON to a file."""
    run = context.run_config
    nodes = run["nodes"]
    while len(list(grid.get_node_ids())) < nodes:
        time.sleep(0.1)
    model = np.random.default_rng(0).random(run["numbers"], dtype=np.float32)
    rounds = run["rounds"] + 1
    found = []

    class Strategy(FedAvg):
        """Keeps the mean of each round, and sends the same model again."""

        def aggregate_fit(self, server_round: int, results: list, failures: list) -> tuple[Parameters, dict]:
            """Return the first model."""
            mean, _ = super().aggregate_fit(server_round, results, failures)
            found.append(None if mean is None else parameters_to_ndarrays(mean)[0])
            return ndarrays_to_parameters([model]), {}

    strategy = Strategy(
        min_fit_clients=nodes,
        min_available_clients=nodes,
        fraction_evaluate=0.0,
        initial_parameters=ndarrays_to_parameters([model]),
    )
    workflow = Timed(num_shares=nodes, reconstruction_threshold=2 * nodes // 3 + 1, max_weight=1.0)
    legacy = LegacyContext(context=context, config=ServerConfig(num_rounds=rounds), strategy=strategy)
    DefaultWorkflow(fit_workflow=workflow)(grid, legacy)
    if len(found) != rounds or any(one is None or not np.allclose(one, model, atol=1e-3) for one in found):
        raise RuntimeError("the round's result is wrong")
    Path(run["result"]).write_text(json.dumps([workflow.bytes / nodes, *workflow.seconds[1:]]))
