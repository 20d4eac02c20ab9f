"""CURVE keys: who may connect, and why an address beyond this machine needs them.

Every computer has one key pair and a folder that holds exactly what it needs::

    <folder>/own.secret            readable by its owner alone
    <folder>/own.public
    <folder>/peers/<name>.public   one file per computer that it talks to

As a server it lets in the computers in ``peers``; as a client it checks that the server is the one it expects.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import zmq

from roborl.errors import ConfigError

_Z85 = re.compile(rb"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
_MAKE = "Make keys with `roborl keys` and move one folder to each computer"
_LOOPBACK = re.compile(r"tcp://(127\.\d+\.\d+\.\d+|localhost|\[::1\]):[\d*]+")


@dataclass(frozen=True, kw_only=True)
class SecurityConfig:
    """Where a process finds its keys."""

    # Folder made by roborl keys; empty for links that stay on this machine.
    keys: str = ""
    # Name of the computer this process connects to; needed where the folder knows several.
    server: str = ""

    def load(self) -> Keys | None:
        """Return the keys, or None where none are configured.

        Raises:
            ConfigError: If the folder is incomplete or its secret is readable by others.
        """
        return Keys.load(Path(self.keys), server=self.server) if self.keys else None


@dataclass(frozen=True, kw_only=True)
class Keys:
    """One computer's key pair and the public keys of the computers it talks to, Z85 text of 40 bytes each.

    Attributes:
        public: Own public key.
        secret: Own secret key; not shown by ``repr``.
        peers: Public key by name of computer.
        server: Which of the peers to connect to; empty where there is only one.
    """

    public: bytes
    secret: bytes = field(repr=False)
    peers: Mapping[str, bytes]
    server: str = ""

    @classmethod
    def load(cls, folder: Path, *, server: str = "") -> Keys:
        """Read a folder made by :func:`make_keys`.

        Raises:
            ConfigError: If a file is missing or no key, nobody is let in, the two own keys are no pair, or the secret is
                readable by others.
        """
        secret = folder / "own.secret"
        keys = cls(
            public=_read(folder / "own.public"),
            secret=_read(secret),
            peers={path.stem: _read(path) for path in _listed(folder / "peers")},
            server=server,
        )
        if _public_of(secret, keys.secret) != keys.public:
            raise ConfigError(
                "A key folder holds two keys that are no pair",
                seen=f"own.secret and own.public in {folder}",
                allowed="the two keys of one pair",
                remedy=_MAKE,
            )
        mode = secret.stat().st_mode & 0o777
        if mode & 0o077:
            raise ConfigError(
                f"The secret key {secret} can be read by others",
                seen=f"mode {mode:03o}",
                allowed="600",
                remedy=f"Run chmod 600 {secret}, or make new keys if others have seen it",
            )
        return keys

    def server_key(self) -> bytes:
        """Return the public key that the server must prove to own.

        Raises:
            ConfigError: If it is not clear which one.
        """
        name = self.server or (next(iter(self.peers)) if len(self.peers) == 1 else "")
        if name not in self.peers:
            raise ConfigError(
                "It is not clear which computer's key the server must have",
                seen=self.server or "no name",
                allowed=sorted(self.peers),
                remedy="Set security.server to the name of the computer that is connected to",
            )
        return self.peers[name]


def make_keys(root: Path, computers: Sequence[str]) -> dict[str, Path]:
    """Make one key folder per computer under ``root``, each knowing all others.

    Args:
        root: Where the folders go.
        computers: Names, two or more.

    Returns:
        Folder by name; each is to be moved to its computer.

    Raises:
        ConfigError: If a name cannot be a file name, or a folder exists.
    """
    if len(set(computers)) < 2 or not all(re.fullmatch(r"[A-Za-z0-9_\-]{1,64}", name) for name in computers):
        raise ConfigError(
            "Keys need the names of at least two computers",
            seen=list(computers),
            allowed="different names of letters, digits, _ and -",
            remedy="For example: roborl keys --computers '[learner, robot]'",
        )
    pairs = {name: zmq.curve_keypair() for name in computers}
    for name in computers:
        if (root / name).exists():
            raise ConfigError(
                "A key folder exists already",
                seen=root / name,
                remedy="Remove it, or choose another --folder; keys are never overwritten",
            )
    for name, (public, secret) in pairs.items():
        # Under another name first: a folder that lacks a peer would be moved away and not be let in.
        draft = root / f".{name}.draft"
        shutil.rmtree(draft, ignore_errors=True)
        peers = draft / "peers"
        peers.mkdir(parents=True, mode=0o700)
        draft.chmod(0o700)
        descriptor = os.open(draft / "own.secret", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secret + b"\n")
        (draft / "own.public").write_bytes(public + b"\n")
        for other, (other_public, _) in pairs.items():
            if other != name:
                (peers / f"{other}.public").write_bytes(other_public + b"\n")
    for name in pairs:
        (root / f".{name}.draft").rename(root / name)
    return {name: root / name for name in computers}


def check_bind(endpoint: str, keys: Keys | None) -> None:
    """Refuse to listen beyond this machine without keys.

    Raises:
        ConfigError: If ``endpoint`` is reachable from other computers and ``keys`` is None.
    """
    if (
        keys is None
        and not endpoint.startswith(("ipc://", "inproc://"))
        and not _LOOPBACK.fullmatch(endpoint)
    ):
        raise ConfigError(
            "This address can be reached from other computers, and no keys are configured",
            seen=endpoint,
            allowed="tcp://127.0.0.1:PORT without keys, any address with keys",
            remedy="Make keys with `roborl keys` and set security.keys on both computers",
        )


def _read(path: Path) -> bytes:
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(
            "A key file cannot be read",
            seen=f"{path}: {error.strerror}",
            allowed="a folder with own.secret, own.public and peers/",
            remedy=_MAKE,
        ) from error
    if not _Z85.fullmatch(key):
        raise _no_key(path, key)
    return key


def _public_of(path: Path, secret: bytes) -> bytes:
    try:
        return zmq.curve_public(secret)
    except zmq.ZMQError as error:  # Its letters are those of a key, and their sum is not.
        raise _no_key(path, secret) from error


def _no_key(path: Path, key: bytes) -> ConfigError:
    return ConfigError(
        "A key file holds no key",
        seen=f"{path}, {len(key)} bytes",
        allowed="40 characters of Z85",
        remedy="Make new keys with `roborl keys`",
    )


def _listed(peers: Path) -> list[Path]:
    """Return the key files of the computers that are let in; one or more."""
    try:
        found = sorted(path for path in peers.iterdir() if path.suffix == ".public")
    except OSError as error:
        raise ConfigError(
            "The keys of other computers cannot be read",
            seen=f"{peers}: {error.strerror}",
            allowed="a folder with a file NAME.public of each computer that is talked to",
            remedy=f"{_MAKE}; what was unpacked by another user is given back by chown",
        ) from error
    if not found:
        raise ConfigError(
            "A key folder knows no other computer",
            seen=f"nothing that ends in .public in {peers}",
            allowed="a file NAME.public of each computer that is talked to",
            remedy=_MAKE,
        )
    return found
