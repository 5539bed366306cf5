"""What is trained: data, models that train as a population, and tasks by name. Imports torch."""

from .data import Batch, Data
from .model import Model, stack
from .registry import UnknownTask, task, tasks
from .schedule import DECAYS, schedule
from .task import Task

__all__ = [
    "DECAYS", "Batch", "Data", "Model", "Task", "UnknownTask", "schedule", "stack", "task", "tasks",
]  # fmt: skip
