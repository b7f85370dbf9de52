"""One holder at a time, among processes and among machines that share a disk.

On a local disk the kernel frees a lock with the process that held it, however that ended. On a
network file system it may not: there a lease is used, which its holder renews and others take over
when it has shown no sign of life for a stated time.
"""

from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

from filelock import BaseFileLock, FileLock, SoftFileLease, Timeout

from compressor.errors import RunError
from compressor.options import hold
from compressor.schema import CacheKeys, Lock

KINDS = get_args(Lock)
# Type names of /proc/self/mountinfo whose locks may outlive a dead holder.
_NETWORK = frozenset(
    "nfs nfs4 cifs smb3 smbfs afs 9p ceph lustre gpfs beegfs glusterfs orangefs pvfs2 wekafs "
    "fuse.sshfs fuse.glusterfs fuse.s3fs fuse.gcsfuse fuse.rclone fuse.juicefs".split()
)
_WATCHERS = 128  # leases that are watched at the same time
_POLL = 0.2  # seconds between two tries for a lock that another process holds


class Locks:
    """Named locks in one folder.

    kind: auto (a lease on network file systems, else a lock), lock or lease.
    lease_seconds: without a sign of life for so long, the holder of a lease is taken for dead; the
    same for all who share the folder. remedy: what to do when the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        kind: str = "auto",
        lease_seconds: float = 60.0,
        *,
        remedy: str = "set cache.dir= or paths.outputs= to a folder that can be written",
    ) -> None:
        hold(CacheKeys, "cache", {"lock": kind, "lease_seconds": lease_seconds})
        self.folder = folder
        self.remedy = remedy
        self.lease_seconds = float(lease_seconds)
        self.leases = is_on_network(folder) if kind == "auto" else kind == "lease"

    def make(self, name: str) -> BaseFileLock:
        """The lock of that name, not yet taken."""
        path = self.folder / f"{name}.lock"
        if self.leases:
            return SoftFileLease(path, lease_duration=self.lease_seconds)
        return FileLock(path)

    @contextmanager
    def hold(self, name: str, waits: Any = None) -> Iterator[BaseFileLock]:
        """Hold the lock of that name; `waits()` is called once if another process has it."""
        lock = self.make(name)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                if waits is not None:
                    waits()
                lock.acquire(timeout=-1, poll_interval=_POLL)
        except OSError as error:
            raise RunError(
                f"cannot write to {self.folder} ({error.strerror or error}): {self.remedy}"
            ) from None
        try:
            yield lock
        finally:
            lock.release()

    def is_held(self, name: str) -> bool:
        """Whether a living process holds the lock of that name."""
        lock = self.make(name)
        if not Path(lock.lock_file).exists():
            return False
        try:
            # one look is not enough for a lease: it counts the silence itself
            lock.acquire(timeout=self.lease_seconds + 1 if self.leases else 0, poll_interval=_POLL)
        except Timeout:
            return True
        except OSError:
            return False
        lock.release()
        return False

    def held(self, names: Collection[str]) -> set[str]:
        """Those of the names whose locks living processes hold; leases are watched side by side."""
        if not names:
            return set()
        with ThreadPoolExecutor(min(len(names), _WATCHERS if self.leases else 1)) as threads:
            found = threads.map(self.is_held, names)
            return {name for name, held in zip(names, found, strict=True) if held}


def check_held(lock: BaseFileLock) -> None:
    """RunError when a lease was taken over while its holder slept."""
    if getattr(lock, "compromise", None) is not None:
        raise RunError(
            f"the lease {lock.lock_file} was taken over by another process because this one showed "
            "no sign of life; raise cache.lease_seconds (for all who share the cache), start again"
        )


def is_on_network(path: Path) -> bool:
    """Whether the folder, or the nearest one above it that exists, lies on a network disk."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False  # not Linux: the kernel's locks are the best guess
    place = path.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    place, best, kind = place.resolve(), -1, ""
    for line in lines:
        left, _, right = line.partition(" - ")
        mount = Path(left.split()[4].replace("\\040", " "))
        if len(mount.parts) >= best and place.is_relative_to(mount):
            best, kind = len(mount.parts), right.split()[0]
    return kind in _NETWORK
