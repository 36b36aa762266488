"""The first frame a caller uploads: told by its first bytes, measured before it is unpacked, kept as plain pixels.

What is kept is a new PNG of at most MAX_KEPT pixels: no metadata, no second file behind the picture, nothing of the
name it came with. Try it: `pytest tests/services/test_pictures.py`.
"""

from __future__ import annotations

import io
import math
import threading
import warnings

from PIL import Image, ImageOps

from ovi.errors import OviError

MAX_PIXELS = 25_000_000  # unpacked; a phone's photograph has 12 to 24 million
MAX_KEPT = 4_000_000  # more than any model's area
MAGIC = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG", b"RIFF": "WEBP"}
_two_at_a_time = threading.Semaphore(2)  # bounds the memory of unpacking, however many callers there are


def first_frame(upload: bytes) -> tuple[bytes, tuple[int, int]]:
    """The picture as PNG, upright, RGB, and its (height, width). OviError in one line for all that is none."""
    kind = next((name for magic, name in MAGIC.items() if upload.startswith(magic)), None)
    if kind is None:
        raise OviError("not a PNG, JPEG or WebP picture")
    with _two_at_a_time, warnings.catch_warnings():
        warnings.simplefilter("error")  # the library warns of what it half accepts
        try:
            with Image.open(io.BytesIO(upload), formats=[kind]) as picture:
                width, height = picture.size
                if width * height > MAX_PIXELS:
                    raise OviError(f"{width}x{height} pixels; at most {MAX_PIXELS // 1_000_000} million")
                upright = ImageOps.exif_transpose(picture).convert("RGB")
        except OviError:
            raise
        except Exception:  # a decoder given arbitrary bytes has no narrower one
            raise OviError(f"damaged: it begins like a {kind} picture but cannot be read as one") from None
        if (shrink := math.sqrt(MAX_KEPT / (upright.width * upright.height))) < 1:
            upright.thumbnail((math.ceil(upright.width * shrink), math.ceil(upright.height * shrink)))
        kept = io.BytesIO()
        upright.save(kept, "PNG", compress_level=1)
        return kept.getvalue(), (upright.height, upright.width)
