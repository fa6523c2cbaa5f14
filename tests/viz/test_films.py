"""Films of bodies before and after adaptation."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from jaxmeta.viz import PICTURE, films


def test_episodes_are_next_to_each_other_below_their_captions():
    red, blue = np.array([200, 0, 0], np.uint8), np.array([0, 0, 200], np.uint8)
    dark = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.uint8(50)  # frames differ
    one, other = (np.broadcast_to(colour, (3, 24, 32, 3)) - np.minimum(dark, colour) for colour in (red, blue))
    film = films._gif([one, other], ["before", "after"], 0.04)
    assert PICTURE.encode() in film[:1000]  # what is not overwritten lacks it
    image = Image.open(io.BytesIO(film))
    assert (image.n_frames, image.size, image.info["duration"], image.info["loop"]) == (3, (64, 68), 40, 0)
    image.seek(2)
    drawn = np.asarray(image.convert("RGB"), int)
    assert np.abs(drawn[-1, 0] - one[2, 0, 0]).max() < 20 and np.abs(drawn[-1, -1] - other[2, 0, 0]).max() < 20
    captions = drawn[: films.CAPTION]
    assert (captions[:, :32] < 100).any() and (captions[:, 32:] < 100).any() and (captions == 255).mean() > 0.5
