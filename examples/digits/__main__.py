"""Train on the digits of four silos, and compare with training on all rows in one place: `make digits`."""

import tensorflow_federated as tff

import fedbroker
from examples.digits.data import split
from examples.digits.model import central_accuracy, model

ROUNDS = 15


def federated_accuracy(tables: dict) -> float:
    """Train at the silos; return the accuracy on their held-out rows."""
    process = tff.learning.algorithms.build_weighted_fed_avg(
        model,
        client_optimizer_fn=tff.learning.optimizers.build_sgdm(0.05),
        server_optimizer_fn=tff.learning.optimizers.build_sgdm(1.0),
    )
    evaluation = tff.learning.algorithms.build_fed_eval(model)
    with fedbroker.simulate(tables) as simulation, simulation.context.run("digits", rounds=ROUNDS) as run:
        state = process.initialize()
        rows = fedbroker.data("train", batch_size=20, epochs=5, shuffle=True, seed=1)
        for _ in run:
            output = process.next(state, rows)
            state = output.state
            run.report(output.metrics["client_work"]["train"])
        held_out = evaluation.set_model_weights(evaluation.initialize(), process.get_model_weights(state))
        metrics = evaluation.next(held_out, fedbroker.data("test", batch_size=100)).metrics
    return float(metrics["client_work"]["eval"]["current_round_metrics"]["accuracy"])


def main() -> None:
    """Print both accuracies."""
    tables = split()
    central = central_accuracy(tables)
    print(f"all rows in one place: accuracy {central:.1%}")
    federated = federated_accuracy(tables)
    print(f"four silos, {ROUNDS} rounds: accuracy {federated:.1%}, {federated / central:.1%} of it")


if __name__ == "__main__":
    main()
