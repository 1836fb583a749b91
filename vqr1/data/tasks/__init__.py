"""What auxiliary tasks ask about: items made from the labels of a set (`tasks.NAME.data`)."""

from vqr1.data.tasks.base import Item, TaskData, build_task_data
from vqr1.data.tasks.comparisons import Comparisons
from vqr1.data.tasks.degradations import Degradations

__all__ = ["Comparisons", "Degradations", "Item", "TaskData", "build_task_data"]
