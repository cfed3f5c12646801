"""`eyas val`: labelled pictures, the figures that say how good a detector is on them, and pictures of both."""
