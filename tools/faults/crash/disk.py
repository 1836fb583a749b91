"""The states of a folder that a power loss may leave, after any prefix of what was recorded.

What was synced is there. Of everything else any part may be:

- changes of names: those of different names in any order and combination; of the same name in order
  (a file that was renamed twice is not renamed the second time only). A folder's names are on the
  disk once the folder was synced, a file's content once the file was: neither brings the other.
- a file's content: no write, all of them, those up to any one, that one torn at a block, the file's
  new size with zeros in the place of all or of one block of what was written.

Names and contents are independent: a file may have its name before it has its bytes, and a folder
that was made may be lost with all that was synced in it.

Combinations are bounded: of more than six changes of names not all subsets are built but every
prefix, each change alone and all without each; one file at a time takes all its variants while the
others are whole or lost, and all take each of the plain ones together.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tools.faults.crash.recording import (
    ROOT,
    Commit,
    Event,
    Names,
    Recording,
    Sync,
    Tree,
    Write,
    written,
)

BLOCK = 16
"""Bytes that are written together or not at all. Disks have 512 or more: smaller ones tear small
files too."""
_ALL_SUBSETS = 6
"""Changes of names of which every combination is tried."""

Files = tuple[tuple[str, bytes | None], ...]


@dataclass(frozen=True)
class State:
    """A folder as a power loss may leave it.

    Attributes:
        files: every path with its bytes; None is a folder.
        commits: how many commits had been noted before.
        events: length of the prefix.
    """

    files: Files
    commits: int
    events: int

    def digest(self) -> bytes:
        """The same for states between which no recovery can distinguish."""
        whole = hashlib.sha256(str(self.commits).encode())
        for path, content in self.files:
            whole.update(f"{len(path)} {path} {-1 if content is None else len(content)} ".encode())
            whole.update(content or b"")
        return whole.digest()


class _Disk:
    """What is on the disk for certain, and what is not yet."""

    def __init__(self, before: Tree) -> None:
        self.safe = before.copy()
        self.names: list[Names] = []
        self.writes: dict[int, list[Write]] = {}

    def apply(self, event: Event) -> None:
        """Take one event in."""
        if isinstance(event, Names):
            self.names.append(event)
        elif isinstance(event, Write):
            self.writes.setdefault(event.number, []).append(event)
        elif isinstance(event, Sync):
            self._sync(event.number)

    def _sync(self, number: int | None) -> None:
        for file in [number] if number is not None else list(self.writes):
            for write in self.writes.pop(file, ()):
                self.safe.write(write)
        # A rename between two folders is one change, with what it needs.
        kept = [
            i
            for i, change in enumerate(self.names)
            if number is None or any(folder == number for folder, _, _ in change.entries)
        ]
        closed = _closed(self.names, kept)
        for i in sorted(closed):
            self.safe.rename(self.names[i].entries)
        self.names = [change for i, change in enumerate(self.names) if i not in closed]


def states(recording: Recording, tears: int) -> Iterator[State]:
    """Every state, each once.

    Args:
        recording: what was done.
        tears: blocks at which one write may be torn, or lose one, at most; evenly over it.
    """
    seen: set[bytes] = set()
    disk = _Disk(recording.before)
    commits = 0
    for count, event in enumerate([None, *recording.events]):
        if isinstance(event, Commit):
            commits += 1
        elif event is not None:
            disk.apply(event)
        for chosen in _subsets(disk.names):
            tree = disk.safe.copy()
            for i in chosen:
                tree.rename(disk.names[i].entries)
            for files in _with_contents(tree, disk.writes, tears):
                state = State(files, commits, count)
                digest = state.digest()
                if digest not in seen:
                    seen.add(digest)
                    yield state


def _closed(changes: Sequence[Names], chosen: Sequence[int]) -> frozenset[int]:
    """Changes with the earlier ones of the same names."""
    closed = set(chosen)
    for later in range(len(changes) - 1, -1, -1):
        if later in closed:
            touched = {entry[:2] for entry in changes[later].entries}
            closed |= {
                i for i in range(later)
                if touched & {entry[:2] for entry in changes[i].entries}
            }  # fmt: skip
    return frozenset(closed)


def _subsets(changes: Sequence[Names]) -> list[tuple[int, ...]]:
    numbers = range(len(changes))
    if len(changes) <= _ALL_SUBSETS:
        picked = itertools.chain.from_iterable(
            itertools.combinations(numbers, size) for size in range(len(changes) + 1)
        )
        sets = {frozenset(pick) for pick in picked}
        whole = [one for one in sets if _closed(changes, sorted(one)) == one]
    else:
        wanted = [range(end) for end in range(len(changes) + 1)] + [[i] for i in numbers]
        closed = {_closed(changes, list(pick)) for pick in wanted}
        for left in numbers:
            without = frozenset(i for i in numbers if left not in _closed(changes, [i]))
            closed.add(without)
        whole = list(closed)
    return sorted(tuple(sorted(one)) for one in whole)


def _reachable(tree: Tree, folder: int = ROOT) -> set[int]:
    below = set(tree.names.get(folder, {}).values())
    return below.union(*(_reachable(tree, number) for number in below))


def _with_contents(tree: Tree, writes: dict[int, list[Write]], tears: int) -> Iterator[Files]:
    dirty = sorted(_reachable(tree) & {number for number, some in writes.items() if some})
    variants = {n: _variants(tree.contents.get(n, b""), writes[n], tears) for n in dirty}
    plain = ("all", "none", "zeros")
    choices = [dict.fromkeys(dirty, kind) for kind in plain]
    for number in dirty:
        for kind in variants[number]:
            if kind not in plain:
                choices += [{**dict.fromkeys(dirty, rest), number: kind} for rest in plain[:2]]
            else:
                choices.append({**dict.fromkeys(dirty, "all"), number: kind})
    for choice in choices:
        own = {number: variants[number][kind] for number, kind in choice.items()}
        yield tuple(Tree(tree.names, {**tree.contents, **own}).files())


def _variants(content: bytes, writes: Sequence[Write], tears: int) -> dict[str, bytes]:
    """What a file may hold, by what happened to its writes."""
    whole = content
    found = {"none": content}
    for number, write in enumerate(writes):
        places = _blocks(write, tears)
        for blocks in places:
            torn = Write(write.number, write.offset, write.data[: blocks * BLOCK], write.size)
            short = Write(torn.number, torn.offset, torn.data, torn.offset + len(torn.data))
            found[f"torn {number} {blocks}"] = written(whole, short)
            # The new size came to the disk before the bytes did.
            found[f"hole {number} {blocks}"] = written(whole, torn)
        before, whole = whole, written(whole, write)
        for block in (0, *places):
            begin = write.offset + block * BLOCK
            lost = whole[:begin] + bytes(BLOCK) + whole[begin + BLOCK :]
            found[f"lost {number} {block}"] = lost[: len(whole)]
        if write.size < len(before):
            found[f"cut {number}"] = before[: write.size]
        found[f"up to {number}"] = whole
    found["all"] = whole
    kept = len(content) if whole.startswith(content) else 0
    found["zeros"] = whole[:kept].ljust(len(whole), b"\0")
    return found


def _blocks(write: Write, most: int) -> list[int]:
    """Numbers of blocks before which a write may be torn, from 1 on."""
    count = (len(write.data) - 1) // BLOCK
    if count <= most:
        return list(range(1, count + 1))
    return sorted({1 + i * (count - 1) // (most - 1) for i in range(most)})
