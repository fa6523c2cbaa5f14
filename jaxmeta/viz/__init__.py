"""Pictures: learning and adaptation curves, trials on grids and in mazes, predictions of waves."""

PICTURE = "made by jaxmeta"
"""What a picture says of itself; a file that does not is not overwritten."""
