"""What would become of the cluster: the controller's own loops, run forward on a copy. Pure."""

from controller.planning.course import Course, Limits, Move, MoveKind, Step, run
from controller.planning.explaining import Explained, Question, explain
from controller.planning.forward import Forward

__all__ = [
    "Course",
    "Explained",
    "Forward",
    "Limits",
    "Move",
    "MoveKind",
    "Question",
    "Step",
    "explain",
    "run",
]
