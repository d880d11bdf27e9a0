"""An OpenID Connect issuer on loopback, whose keys a test changes at will."""

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

AUDIENCE = "evalfleet"
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class Issuer:
    """Signs tokens and publishes its keys.

    Attributes:
        url: its name and address.
        keys: by key id; change them to rotate.
        is_up: whether it answers.
        fetches: how often its keys were fetched.
        extra_keys: published as they are, beside the others.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.keys: dict[str, PrivateKey] = {"k1": ec.generate_private_key(ec.SECP256R1())}
        self.is_up = True
        self.fetches = 0
        self.extra_keys: list[dict[str, Any]] = []
        self.discovered_issuer = url

    def token(
        self, *, kid: str | None = "k1", algorithm: str | None = None, expires_in: float = 600.0, **claims: Any
    ) -> str:
        """Sign a token; a claim that is ``None`` is left out."""
        now = time.time()
        told = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "alice",
            "iat": now - 5,
            "exp": now + expires_in,
            "roles": ["evalfleet:classify", "evalfleet:read", "other:admin"],
        } | claims
        key = self.keys[kid or next(iter(self.keys))]
        algorithm = algorithm or ("ES256" if isinstance(key, ec.EllipticCurvePrivateKey) else "RS256")
        headers = {} if kid is None else {"kid": kid}
        return jwt.encode({k: v for k, v in told.items() if v is not None}, key, algorithm, headers=headers)

    def document(self, path: str) -> Mapping[str, Any] | None:
        """Return what it answers."""
        if path == "/.well-known/openid-configuration":
            return {"issuer": self.discovered_issuer, "jwks_uri": f"{self.url}/keys"}
        if path == "/keys":
            self.fetches += 1
            return {"keys": [*self.extra_keys, *(_public(kid, key) for kid, key in self.keys.items())]}
        return None


def _public(kid: str, key: PrivateKey) -> dict[str, Any]:
    public = key.public_key()
    encoded = (
        ECAlgorithm.to_jwk(public, as_dict=True)
        if isinstance(public, ec.EllipticCurvePublicKey)
        else RSAAlgorithm.to_jwk(public, as_dict=True)
    )
    return {**encoded, "kid": kid, "use": "sig"}


@contextmanager
def serve_issuer() -> Iterator[Issuer]:
    """Run an issuer on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            document = issuer.document(self.path) if issuer.is_up else None
            content = json.dumps(document).encode()
            self.send_response(404 if document is None else 200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    issuer = Issuer(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield issuer
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
