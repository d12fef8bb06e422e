"""Rows of a file to training, validation and test, so that nothing leaks from one to another.

The same seed and the same bytes give the same parts on any machine.
"""

from tanren.data.split.split import SPLIT_FILE, SplitSettings, split_file
from tanren.data.split.wish import Wish, counts_wish, shares_wish

__all__ = ["SPLIT_FILE", "SplitSettings", "Wish", "counts_wish", "shares_wish", "split_file"]
