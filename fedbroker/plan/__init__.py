"""Cut a TFF computation into stages that run at the silos and at the server."""

from fedbroker.plan.explain import Crossing, Explanation, explain, explain_plan
from fedbroker.plan.model import ClientStage, Plan, ServerStage, Slot, Stage
from fedbroker.plan.planner import make_plan

__all__ = [
    "ClientStage",
    "Crossing",
    "Explanation",
    "Plan",
    "ServerStage",
    "Slot",
    "Stage",
    "explain",
    "explain_plan",
    "make_plan",
]
