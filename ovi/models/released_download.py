"""The released files from the Hugging Face hub, in the folders `released_layout` knows, with their licences told.

Try it: `ovi weights download --version 720x720_5s --out ckpts`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from ovi.errors import OviError, one_line
from ovi.models import released_layout as layout
from ovi.progress import Progress


def download_weights(out: Path, version: str, progress: Progress) -> list[Path]:
    """Fetch what `import_weights` reads for a version, or for the backbone; files that are there are kept.

    Raises OviError without a network, and when a file is not the one that was published.
    """
    from huggingface_hub import snapshot_download  # takes a second to import

    places = layout.sources(version)
    progress.start("downloading", len(places), "repositories")
    for place in places:
        progress.note(f"{place.repository}: licence {place.licence}")
        try:
            snapshot_download(place.repository, allow_patterns=list(place.patterns), local_dir=out / place.folder)
        except Exception as error:  # the hub and its transport raise many kinds
            why = f"{type(error).__name__}: {one_line(error)[:100]}"
            raise OviError(
                f"{place.repository}: cannot be downloaded ({why}); check the network, "
                f"or copy {', '.join(place.patterns)} into {out / place.folder}"
            ) from None
        progress.advance()
    for name, md5 in layout.MD5.items():
        if (out / name).is_file():
            _check(out / name, md5)
    return [out / place.folder for place in places]


def _check(file: Path, md5: str) -> None:
    with open(file, "rb") as content:
        if hashlib.file_digest(content, "md5").hexdigest() != md5:
            raise OviError(f"{file}: its md5 is not {md5}; remove it and download again")
