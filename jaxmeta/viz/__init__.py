"""Figures: learning and adaptation curves, trials on grids and in mazes, predictions of sine waves."""

PICTURE = "made by jaxmeta"
"""Metadata of figures; files without it are not overwritten."""
