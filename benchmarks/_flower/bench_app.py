"""A round of averaging as a Flower app, the same as ``averaging`` in ``benchmarks/_computations.py`` is in TFF."""

import json
import time
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

client = ClientApp()
server = ServerApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    """Return an update of the model's size."""
    (model,) = message.content["model"].to_numpy_ndarrays()
    return Message(RecordDict({"model": ArrayRecord([model * np.float32(1)])}), reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Run rounds after one to warm up; write the seconds of each as JSON to a file."""
    config = context.run_config
    while len(nodes := list(grid.get_node_ids())) < config["nodes"]:
        time.sleep(0.1)
    model = np.random.default_rng(0).random(config["numbers"], dtype=np.float32)
    seconds = []
    for _ in range(config["rounds"] + 1):
        model[0] += 1
        start = time.perf_counter()
        content = RecordDict({"model": ArrayRecord([model])})
        messages = [Message(content, dst_node_id=node, message_type="train") for node in nodes]
        replies = list(grid.send_and_receive(messages))
        found = sum(reply.content["model"].to_numpy_ndarrays()[0] for reply in replies)
        seconds.append(time.perf_counter() - start)
        if len(replies) != len(nodes) or not np.allclose(found[:100], len(nodes) * model[:100]):
            raise RuntimeError("the round's result is wrong")
    Path(config["result"]).write_text(json.dumps(seconds[1:]))
