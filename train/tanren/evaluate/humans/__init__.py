"""People as judges: a blind sheet to fill in, read back with how far people (and judges) agree."""

from tanren.evaluate.humans.items import Item, Items, pair_items, single_items
from tanren.evaluate.humans.ratings import Rating, Ratings
from tanren.evaluate.humans.read import read_ratings
from tanren.evaluate.humans.sheet import Sheet, write_sheet

__all__ = [
    "Item",
    "Items",
    "Rating",
    "Ratings",
    "Sheet",
    "pair_items",
    "read_ratings",
    "single_items",
    "write_sheet",
]
