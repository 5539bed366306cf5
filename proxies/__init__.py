"""What is trained: data, models that train as a population, and tasks by name. Imports torch."""

from .data import Batch, Data
from .examples import Examples
from .model import Model, stack
from .own_task import task_of, task_of_module
from .registry import UnknownTask, full_name, task, tasks
from .schedule import DECAYS, schedule
from .task import Task
from .task_error import TaskError, blamed, is_out_of_memory

__all__ = [
    "DECAYS", "Batch", "Data", "Examples", "Model", "Task", "TaskError", "UnknownTask", "blamed", "full_name",
    "is_out_of_memory", "schedule", "stack", "task", "task_of", "task_of_module", "tasks",
]  # fmt: skip
