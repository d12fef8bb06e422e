"""Adapter and base become one model: planned by names and shapes first, then carried out tensor by
tensor.
"""

from tanren.export.merge.apply import merge
from tanren.export.merge.plan import MergePlan, Onto, plan_merge

__all__ = ["MergePlan", "Onto", "merge", "plan_merge"]
