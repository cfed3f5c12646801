"""Faces by name: a detector finds them and their five points, an embedder describes them, a gallery knows them."""

from eyas.faces.align import align
from eyas.faces.gallery import Gallery, Match, open_gallery
from eyas.faces.recogniser import Recogniser

__all__ = ["Gallery", "Match", "Recogniser", "align", "open_gallery"]
