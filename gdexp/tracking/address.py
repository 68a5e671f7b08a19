"""Addresses of stores: tracking URIs, read by the rules of those who connect to them.

A SQLite address is SQLAlchemy's: the path ends at the first `?`, and `%20` in it is a blank.
An address holds what is needed to connect; what is shown of it is `without_password`.
"""

import os
import re
import socket
from pathlib import Path
from urllib.parse import unquote

from gdexp.config.refusal import Refusal

_SQLITE = re.compile(r"sqlite(?:\+pysqlite)?:///([^?]+)(?:\?(.*))?", re.DOTALL)
_ADDRESS = re.compile(
    r"(?P<scheme>[\w+.-]+)://(?:[^:/?#]*(?::[^@]*)?@)?(?:\[(?P<six>[^/?#]+)\]|(?P<host>[^/:?#]+))?(?::(?P<port>[^/?#]*))?"
)
_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "postgres": 5432, "mysql": 3306, "mssql": 1433}


class Unreachable(Exception):
    """Nothing answers at a tracking URI."""


def store_uri(uri: str | None = None) -> str:
    """Return a tracking URI with an absolute path: the given one, MLFLOW_TRACKING_URI's, or `./mlflow.db`.

    Raises:
        Refusal: it is no address.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    if uri.startswith("sqlite"):
        path, query = _file(uri)
        return of_file(path.absolute(), query)
    if "://" in uri:
        _check(uri)
    return uri


def database(uri: str) -> Path | None:
    """Return the file of a SQLite URI, None for any other."""
    return _file(uri)[0] if uri.startswith("sqlite") else None


def of_file(path: Path, query: str = "") -> str:
    """Return the address of a SQLite store."""
    address = "sqlite:///" + str(path).replace("%", "%25").replace("?", "%3F")
    return f"{address}?{query}" if query else address


def without_password(uri: str) -> str:
    """Return a URI as it may be shown.

    >>> without_password("http://me:secret@host:5000/x"), without_password("sqlite:////tmp/a@b.db")
    ('http://host:5000/x', 'sqlite:////tmp/a@b.db')
    """
    if uri.startswith("sqlite"):
        return uri
    return re.sub(r"^([\w+.-]+://)(?:[^:/@\s]*:[^@\s]*@|[^/\s]*@)", r"\1", uri)


def answers(uri: str, seconds: float = 3.0) -> None:
    """Raise Unreachable if nothing listens at the host and port of a URI, or at the proxy on the way there."""
    if (door := _door(uri)) is None:
        return
    scheme, host, port = door
    try:
        socket.create_connection((host, port), timeout=seconds).close()
    except (OSError, UnicodeError) as error:
        raise Unreachable(f"{scheme}://{host}:{port} can't be reached ({error})") from error


def is_well(uri: str, seconds: float = 2.0) -> bool:
    """Say whether a server of MLflow's answers a simple question in time; of what is none that is believed."""
    if not uri.startswith("http"):
        return True
    import ssl
    from urllib.error import HTTPError, URLError
    from urllib.request import urlopen

    try:
        urlopen(f"{without_password(uri).rstrip('/')}/health", timeout=seconds).close()
    except HTTPError as error:
        return error.code < 500
    except URLError as error:
        return isinstance(error.reason, ssl.SSLError)  # it answers one who has its certificate
    except (OSError, ValueError):
        return False
    return True


def _door(uri: str) -> tuple[str, str, int] | None:
    """Return scheme, host and port that a client connects to."""
    parts = _ADDRESS.match(uri)
    if parts is None or not (host := parts["six"] or parts["host"]):
        return None
    scheme = parts["scheme"].partition("+")[0]
    if scheme in ("http", "https"):
        from urllib.request import getproxies, proxy_bypass

        proxies = getproxies()
        proxy = proxies.get(scheme) or proxies.get("all")
        if proxy and not proxy_bypass(host):
            return _door(proxy if "://" in proxy else f"http://{proxy}") if proxy != uri else None
    port = int(parts["port"]) if parts["port"] else _PORTS.get(scheme)
    return None if port is None else (scheme, host, port)


def _file(uri: str) -> tuple[Path, str]:
    """Return file and query of a SQLite URI."""
    found = _SQLITE.fullmatch(uri)
    if found is None or found[1] == ":memory:":
        raise Refusal(
            f"`tracking.uri`: {uri} names no file: sqlite:///mlflow.db, or with the whole path sqlite:////data/mlflow.db"
        )
    return Path(unquote(found[1])), found[2] or ""


def _check(uri: str) -> None:
    """Refuse an address that no client could connect to."""
    parts = _ADDRESS.match(uri)
    port = parts["port"] if parts is not None else None
    wrong = None
    if parts is None or re.search(r"[\x00-\x20\x7f]", uri):
        wrong = "it has blanks, or no scheme"
    elif port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        wrong = f"its port must be a number from 1 to 65535, got {port}"
    elif parts["scheme"] in ("http", "https") and not (parts["host"] or parts["six"]):
        wrong = "it has no host"
    elif parts["scheme"] in ("http", "https") and "#" in uri:
        wrong = "what follows a # is no part of it"
    if wrong:
        raise Refusal(f"`tracking.uri`: {without_password(uri)} is no address: {wrong}")
