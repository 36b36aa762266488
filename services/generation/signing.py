"""C2PA: a signed statement inside each file of a clip that a generative model made it, and which.

It signs with a certificate of yours (`service.certificate`, its chain as PEM, and `service.certificate_key`) and asks
nobody on the network; without a time-stamping authority a signature is good as long as its certificate is.
Signatures differ each time, so a job's sha256 is that of the signed file and `ran.unsigned_sha256` the clip's own.
Try it: `pytest tests/services/test_strict.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ovi import storage
from ovi.errors import ConfigError

GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
ASSERTION = "org.ovi.generation"


class Signer:
    """Signs with one certificate. Raises ConfigError in one line when certificate and key cannot sign."""

    def __init__(self, certificate: Path, key: Path) -> None:
        import c2pa

        chain, private = (storage.read_bytes(path) for path in (certificate, key))
        try:
            info = c2pa.C2paSignerInfo(_algorithm(private), chain, private, None)
            self._signer, self._c2pa = c2pa.Signer.from_info(info), c2pa
        except (ValueError, TypeError, c2pa.C2paError) as error:
            words = f"service.certificate: {certificate} with {key.name} cannot sign ({' '.join(str(error).split())})"
            raise ConfigError(words) from None

    def sign(self, path: Path, media_type: str, about: dict[str, Any]) -> None:
        """Puts the statement into the file, in its place, whole or not at all. `about` is part of what is signed."""
        created = {"action": "c2pa.created", "digitalSourceType": GENERATED}
        manifest = {
            "claim_generator_info": [{"name": "ovi-platform"}],
            "title": path.name,
            "assertions": [
                {"label": "c2pa.actions.v2", "data": {"actions": [created]}},
                {"label": ASSERTION, "data": about},
            ],
        }
        with storage.atomic_path(path) as temporary, open(path, "rb") as source, open(temporary, "w+b") as target:
            self._c2pa.Builder(json.dumps(manifest)).sign(self._signer, media_type, source, target)


def load(certificate: Path | None, key: Path | None) -> Signer | None:
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise ConfigError("service.certificate and service.certificate_key: one is no use without the other")
    return Signer(certificate, key)


def _algorithm(private: bytes) -> str:
    """C2PA's name of what such a key signs with."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(private, None)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return {256: "es256", 384: "es384", 521: "es512"}[key.key_size]
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(key, rsa.RSAPrivateKey):
        return "ps256"
    raise ValueError("neither an elliptic curve, nor Ed25519, nor RSA")
