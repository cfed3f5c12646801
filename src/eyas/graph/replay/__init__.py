"""Write a network again for an input of another shape: the walk, and the rules for each operator."""

from eyas.graph.replay import arithmetic as arithmetic  # importing them registers their rules
from eyas.graph.replay import views as views
from eyas.graph.replay.walk import Purpose, Walk, refusal

__all__ = ["Purpose", "Walk", "refusal"]
