"""Places a graph's nodes and routes its links: left to right, no node over another, no link under a third one.

Stages stand side by side, each in a frame of its own. Inside a stage a node stands right of what feeds it, or, where it only shows a result, below it. A link to
the next column runs through the gap between them. A longer one climbs to a lane above the graph, follows it, and comes
down in the gap before its target, by way of the front end's own reroute points; links of one output share their lane.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

WIDTH = 340  # of a node
GAP = 110  # between columns: room for links that climb
FRAME = 24  # between a stage's frame and its nodes
TITLE = 34  # a node's title bar, which lies above its position
BETWEEN = 26  # between nodes, besides the title bar
HEAD = 60  # of a frame, for its title
LANE = 22  # between lanes
TOP = 0
COLOURS = ("#3f789e", "#8A8", "#b06634", "#a1309b", "#88A", "#3f789e")

Node = dict[str, Any]


@dataclass
class Layout:
    """Where everything stands, while it is being worked out."""

    nodes: list[Node]
    links: list[list[Any]]  # id, origin, output, target, input, type
    stages: list[tuple[str, list[int]]]  # titles and the ids of their nodes, in order
    below: dict[int, int] = field(default_factory=dict)  # node -> the one it stands under
    columns: list[list[int]] = field(default_factory=list)
    groups: list[dict[str, Any]] = field(default_factory=list)
    gap: int = GAP
    right: int = 0

    def node(self, number: int) -> Node:
        return self.nodes[number - 1]

    def column_of(self, number: int) -> int:
        return next(i for i, column in enumerate(self.columns) if number in column)


def arrange(layout: Layout) -> None:
    """Give every node its place, and every stage its frame."""
    x = 0
    for title, members in layout.stages:
        left, bottom = x, TOP
        for column in _columns(layout, members):
            y = TOP + TITLE
            for number in column:
                node = layout.node(number)
                node["pos"] = [x, y]
                height = node["size"][1]
                y += height + TITLE + BETWEEN
            widest = max(layout.node(number)["size"][0] for number in column)
            layout.columns.append(column)
            bottom = max(bottom, y - TITLE - BETWEEN)
            x += widest + layout.gap
        right = x - layout.gap
        box = [left - FRAME, TOP - HEAD, right - left + 2 * FRAME, bottom - TOP + HEAD + FRAME]
        number = len(layout.groups)
        layout.groups.append(
            {
                "id": number + 1,
                "title": title,
                "bounding": box,
                "color": COLOURS[number % len(COLOURS)],
                "font_size": 24,
                "flags": {},
            }
        )
        layout.right = right + FRAME
        x += FRAME


def _columns(layout: Layout, members: list[int]) -> list[list[int]]:
    """A stage's nodes by how many others of the stage come before them; some stand below what they show."""
    depth: dict[int, int] = {}
    below = layout.below

    def of(number: int) -> int:
        if number not in depth:
            before = [link[1] for link in layout.links if link[3] == number and link[1] in members]
            step = 0 if number in below else 1
            depth[number] = step + max(map(of, before)) if before else 0
        return depth[number]

    columns: dict[int, list[int]] = {}
    for number in (number for number in members if number not in below):
        stack = columns.setdefault(of(number), [])
        stack += [number, *(other for other in members if below.get(other) == number)]
    return [columns[key] for key in sorted(columns)]


def lanes(layout: Layout) -> dict[str, Any]:
    """The reroute points of the long links, as the front end keeps them in ``extra``."""
    points: list[dict[str, Any]] = []
    parents: list[dict[str, int]] = []
    long: dict[tuple[int, int], list[list[Any]]] = {}
    for link in layout.links:
        if link[1] > 0 and layout.column_of(link[3]) - layout.column_of(link[1]) > 1:
            long.setdefault((link[1], link[2]), []).append(link)
    used_after: dict[int, int] = {}
    used_before: dict[int, int] = {}

    def point(x: float, y: float, parent: int | None, links: list[int]) -> int:
        entry = {"id": len(points) + 1, "pos": [round(x), round(y)], "linkIds": links}
        points.append({**entry, "parentId": parent} if parent else entry)
        return len(points)

    # Outputs that stand further left take the higher lanes, so that climbing links do not cross lanes.
    for lane, (origin, _) in enumerate(
        sorted(long, key=lambda key: (layout.column_of(key[0]), key))
    ):
        links = sorted(long[origin, _], key=lambda link: layout.column_of(link[3]))
        y = TOP - HEAD - LANE * (len(long) - lane)
        column = layout.column_of(origin)
        rank = used_after[column] = used_after.get(column, 0) + 1
        ids = [link[0] for link in links]
        at = point(_right(layout, column) + 14 + 7 * rank, y, None, ids)
        for target in dict.fromkeys(layout.column_of(link[3]) for link in links):
            here = [link for link in links if layout.column_of(link[3]) == target]
            beyond = [link[0] for link in links if layout.column_of(link[3]) >= target]
            rank = used_before[target] = used_before.get(target, 0) + 1
            at = point(_left(layout, target) - 14 - 7 * rank, y, at, beyond)
            for link in here:
                parents.append({"id": link[0], "parentId": at})
    return {"reroutes": points, "linkExtensions": parents} if points else {}


def _right(layout: Layout, column: int) -> float:
    return max(layout.node(n)["pos"][0] + layout.node(n)["size"][0] for n in layout.columns[column])


def _left(layout: Layout, column: int) -> float:
    return min(layout.node(number)["pos"][0] for number in layout.columns[column])
