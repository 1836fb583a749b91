"""Which rows of a set belong together because they share an image: they stay in one split.

Not here: contents that the labels name (`reference`).
"""

from __future__ import annotations

from collections.abc import Sequence


def connected(groups: Sequence[Sequence[str]]) -> list[str]:
    """A name of each group's connected component: the first image of the component's rows.

    Groups that share a name, or are linked by groups that do, are one component; a group of one
    image that no other has is a component of its own, named after it.

    >>> connected([("a", "b"), ("c",), ("b", "d")])
    ['a', 'c', 'a']
    """
    if all(len(group) == 1 for group in groups):
        return [name for (name,) in groups]
    first: dict[str, str] = {}

    def root(name: str) -> str:
        while first[name] != name:
            first[name] = first[first[name]]
            name = first[name]
        return name

    for group in groups:
        for name in group:
            first.setdefault(name, name)
            first[root(name)] = root(group[0])
    return [root(group[0]) for group in groups]
