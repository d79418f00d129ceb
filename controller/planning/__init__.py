"""What would become of the cluster: the controller's own loops, run forward on a copy. Pure."""

from controller.planning.course import Course, Limits, Move, MoveKind, Step, run
from controller.planning.explaining import Explained, Question, explain
from controller.planning.forward import Forward
from controller.planning.headroom import Headroom, Survey
from controller.planning.rebalance import Balance, Relocation, balance
from controller.planning.room import Room, room
from controller.planning.whatif import Aftermath, NewNodes, Supposition, suppose

__all__ = [
    "Aftermath",
    "Balance",
    "Course",
    "Explained",
    "Forward",
    "Headroom",
    "Limits",
    "Move",
    "MoveKind",
    "NewNodes",
    "Question",
    "Relocation",
    "Room",
    "Step",
    "Supposition",
    "Survey",
    "balance",
    "explain",
    "room",
    "run",
    "suppose",
]
