"""Where the artifacts of runs are, and which files there may be touched.

A store may be a stranger's: what its rows say of paths is believed only where it leads to a folder of that
run below the artifact root beside the store, or below one that the user names in GDEXP_ARTIFACTS. Links and
special files are never followed.
"""

import hashlib
import os
import re
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urlparse

from gdexp.config.refusal import Refusal
from gdexp.config.trust import artifact_folders

RUN_ID = re.compile(r"[0-9a-f]{32}")
IS_RUN_ID = "length(run_uuid) = 32 AND run_uuid NOT GLOB '*[^0-9a-f]*'"  # the same in SQL
_LONGEST = 150  # bytes of a folder's name
_SHARED = (  # file systems on which what one machine locks may be unheard by another
    *(
        "nfs",
        "cifs",
        "smb",
        "lustre",
        "gpfs",
        "beegfs",
        "ceph",
        "glusterfs",
        "afs",
        "9p",
        "virtiofs",
        "vboxsf",
        "prl_fs",
    ),
    *("fuse.sshfs", "fuse.gluster", "fuse.ceph", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "fuse.mfs"),
)
_BESIDE = ("mlruns", "mlartifacts", "artifacts")  # MLflow's default, that of its server, and a spool's


def local_path(uri: str) -> Path | None:
    """Return the folder of an artifact URI, None if it isn't on this machine's file system."""
    if uri.startswith("file:"):
        path = unquote(urlparse(uri).path)
        return Path(path.lstrip("/") if os.name == "nt" else path)
    return Path(uri) if os.path.isabs(uri) else None


def artifact_root(db: Path) -> Path:
    """Return where a SQLite store keeps its artifacts: MLflow's default, beside the file."""
    return db.parent / "mlruns"


def artifact_location(db: Path, experiment: str) -> str:
    """Return where the artifacts of a new experiment go."""
    folder = re.sub(r"[^\w-]", "_", experiment)
    if len(folder.encode()) > _LONGEST:
        digest = hashlib.sha256(experiment.encode()).hexdigest()[:16]
        folder = f"{folder.encode()[:_LONGEST].decode(errors='ignore')}-{digest}"
    return f"{artifact_root(db).as_uri()}/{folder}"


def roots(db: Path) -> list[Path]:
    """Return the folders below which the artifacts of a SQLite store may be."""
    return [db.absolute().parent / name for name in _BESIDE] + artifact_folders()


def folder(db: Path, uri: str, run_id: str) -> Path | None:
    """Return where the artifacts of a run are.

    Args:
        db: the store's file.
        uri: as its row has it.
        run_id: of the run.

    Returns:
        a folder that may not be there; None where it isn't on this machine.

    Raises:
        Refusal: it is none of this store's.
    """
    if (place := local_path(uri)) is None:
        return None
    for root in roots(db):
        if place.is_relative_to(root) and RUN_ID.fullmatch(run_id) and run_id in place.relative_to(root).parts[:-1]:
            inside = place.relative_to(root)
            if ".." not in inside.parts and place.resolve() == root.resolve() / inside:
                return place
    raise Refusal(
        f"run {run_id}: its artifacts lie outside of its store's folder, in {place}: "
        f"GDEXP_ARTIFACTS={place.parent.parent} if they are yours"
    )


def files(place: Path, *, hidden: bool = False) -> Iterator[Path]:
    """Yield the files in a folder of artifacts, the folders in order; links and special files are left out.

    Args:
        place: the folder.
        hidden: take drafts and locks, whose names begin with a dot, too.
    """
    for top, folders, names in os.walk(place):
        folders[:] = sorted(name for name in folders if not (Path(top) / name).is_symlink())
        shown = sorted(name for name in names if hidden or not name.startswith("."))
        yield from (path for name in shown if is_file(path := Path(top) / name))


def clear(place: Path) -> None:
    """Remove what a process that is gone was about to write into a folder of artifacts."""
    for path in files(place, hidden=True):
        if path.name.startswith(".") and path.name.endswith(".part"):
            with suppress(OSError):
                path.unlink()


def is_file(path: Path) -> bool:
    """Say whether there is an ordinary file, and not a link to one."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def write(place: Path, name: str, content: bytes) -> None:
    """Write a file into a folder of artifacts, whole or not at all, and through no link.

    Args:
        place: the folder.
        name: of the file, with the folders below that it goes into.
        content: of the file.

    Raises:
        Refusal: a link stands in the way.
    """
    path = place / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.parent.resolve() != place.resolve() / Path(name).parent:
        raise Refusal(f"the artifact {name} leads out of its folder: {path.parent} is a link")
    draft = path.with_name(f".{path.name}.part")
    draft.unlink(missing_ok=True)
    with draft.open("xb") as file:
        file.write(content)
    draft.replace(path)


def text(path: Path, largest: int) -> str:
    """Read a text.

    Args:
        path: of an ordinary file.
        largest: bytes that it may have.

    Raises:
        Refusal: it is a link or no file, is larger, or isn't UTF-8.
    """
    if not is_file(path):
        raise Refusal(f"the artifact {path.name} leads out of its folder: it is no ordinary file")
    with path.open("rb") as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise Refusal(f"the artifact {path.name} is damaged: it is larger than {largest} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise Refusal(f"the artifact {path.name} is damaged: it isn't UTF-8 ({error.reason})") from error


def user_cache() -> Path:
    """Return the user's cache directory, as their system has it."""
    if sys.platform == "linux":  # the import below takes longer than all else that looks for a store
        home = os.environ.get("XDG_CACHE_HOME", "").strip() or os.path.expanduser("~/.cache")
        return Path(home) / "gdexp"
    from platformdirs import user_cache_path

    return user_cache_path("gdexp", appauthor=False)


def is_shared(path: Path) -> bool:
    """Say whether a path lies on a network file system, as far as Linux tells."""
    try:
        mounts = [line.split(" ")[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return False
    place = path.resolve()
    above = [(where, kind) for where, kind in mounts if place.is_relative_to(where.replace("\\040", " "))]
    return bool(above) and max(above, key=lambda m: len(m[0]))[1].startswith(_SHARED)


@contextmanager
def serialised(db: Path) -> Iterator[None]:
    """Let one process at a time bring runs into a store, or send them from it."""
    from filelock import FileLock

    digest = hashlib.sha256(str(db.resolve()).encode()).hexdigest()[:16]
    user = os.getuid() if hasattr(os, "getuid") else 0
    with FileLock(Path(tempfile.gettempdir()) / f"gdexp-{user}-{digest}.lock"):
        yield
