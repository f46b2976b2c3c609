"""`fluxguard protect FOLDER --ray`: the pictures of a folder on every slot of a Ray cluster, with Ray Data.

One worker a GPU, or a CPU where there is none, loads the models once and takes picture after picture. Ray starts a
lost worker again and gives its pictures to others; a picture that lies finished on disk is not made twice. All
machines of a cluster must see the photos, the models and the output folder under the same paths.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import FluxGuardError
from .names import shown
from .plan import Item, Plan, called
from .results import is_made

HERE = "local"
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Throughput:
    """``seconds`` from the first picture handed out to the last one back, ``busy`` those of all workers together."""

    pictures: int
    workers: int
    seconds: float
    busy: float

    def told(self) -> str:
        """Against one process, which would have been busy with one picture after the other."""
        rate = 60 * self.pictures / max(self.seconds, 1e-9)
        gain = self.busy / max(self.seconds, 1e-9)
        return (
            f"{self.pictures} pictures on {self.workers} workers in {self.seconds:.0f} s: {rate:.1f} a minute, "
            f"{gain:.2f} times what one process does at the workers' pace (loading the models is in the time)."
        )


def add_ray(parser: Any) -> None:
    """The option."""
    parser.add_argument(
        "--ray",
        nargs="?",
        const=HERE,
        metavar="ADDRESS",
        help="spread a folder over a Ray cluster, or over this machine's GPUs or CPUs without ADDRESS",
    )


def protect_with_ray(args: argparse.Namespace, plan: Plan) -> tuple[int, int]:
    """Protect what the plan has to do; returns how many could not be protected, and how many are matched all the same."""
    ray = _ray()
    items = plan.to_do
    with _connected(ray, args.ray) as resources:
        gpus = int(resources.get("GPU", 0))
        slots = gpus or max(1, int(resources.get("CPU", 1)))
        workers = min(slots, len(items))
        started = time.perf_counter()
        # A block a picture from the start: splitting later would need a slot that the workers hold.
        numbers = [{"number": n} for n in range(len(items))]
        outcomes = ray.data.from_items(numbers, override_num_blocks=len(items)).map_batches(
            Worker,
            fn_constructor_kwargs={"given": _portable(args), "plan": plan},
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=0 if gpus else 1,
            num_gpus=1 if gpus else 0,
            max_restarts=-1,
            max_task_retries=-1,
        )
        failed, matched, busy = 0, 0, 0.0
        for row in outcomes.iter_rows():
            failed += not row["fine"]
            matched += bool(row["matched"])
            busy += float(row["seconds"])
            print(row["told"], file=sys.stdout if row["fine"] else sys.stderr, flush=True)
    print(Throughput(len(items), workers, time.perf_counter() - started, busy).told())
    return failed, matched


class Worker:
    """One slot's process: the models, loaded once, and the plan."""

    def __init__(self, given: dict[str, Any], plan: Plan) -> None:
        from .protect import worker_of

        self.args, self.plan = argparse.Namespace(**given), plan
        self.work = worker_of(self.args, plan)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Protect the pictures of these numbers."""
        rows = [self._one(self.plan.to_do[int(number)]) for number in batch["number"]]
        return {
            name: [row[name] for row in rows] for name in ("fine", "matched", "seconds", "told")
        }

    def _one(self, item: Item) -> dict[str, Any]:
        from .protect import every_recogniser_matches, told_of

        started = time.perf_counter()
        name = shown(item.targets.protected)
        matched = False
        try:
            # A worker that was lost after its last word to the disk has done this one.
            if not self.args.again and is_made(item.targets, item.made, html=self.args.html):
                told = f"{name}: done by a worker that was lost afterwards"
            else:
                result = self.work(item, called(self.args, item), lambda: False)
                told = f"{name}: " + (
                    f"protected, but not measured: {result.unmeasured}"
                    if result.report is None
                    else result.report.verdict.headline
                )
                matched = every_recogniser_matches(result)
            fine = True
        except Exception as error:  # whatever it is, the other pictures have their turn
            fine, told = False, f"{called(self.args, item)}: {told_of(error)}"
        seconds = time.perf_counter() - started
        return {"fine": fine, "matched": matched, "seconds": seconds, "told": told}


def _portable(args: argparse.Namespace) -> dict[str, Any]:
    """The options without what cannot travel; workers draw no bars, and start in another folder."""
    values = {k: v for k, v in vars(args).items() if k != "run"}
    paths = (
        "photo",
        "output",
        "model",
        "transformer",
        "vae",
        "text_encoders",
        "tiny_vae",
        "autoencoder",
    )
    for name in (*paths, "mask", "second", "points", "vgg", "lpips"):
        if values.get(name) and Path(values[name]).exists():
            values[name] = os.path.abspath(values[name])
    return {**values, "quiet": True}


def _processors() -> int:
    """Those that this process may use, which may be fewer than the machine has."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed is not None else os.cpu_count() or 1


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    try:
        import ray.data
    except ImportError as error:
        raise FluxGuardError(
            f"Spreading a folder needs Ray ({error}).", 'Run ‹install "ray[data]"›.'
        ) from error
    return ray


class _connected:
    """Within, a Ray cluster; its resources."""

    def __init__(self, ray: Any, address: str) -> None:
        self.ray, self.address = ray, address

    def __enter__(self) -> dict[str, float]:
        path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
        environment = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        settings: dict[str, Any] = {
            "runtime_env": {"env_vars": environment},
            "log_to_driver": False,
            "configure_logging": False,
        }
        if self.address == HERE:
            settings |= {
                "address": "local",
                "include_dashboard": False,
                "num_cpus": _processors(),
                "object_store_memory": 200 * 2**20,  # only numbers and words travel
            }
        else:
            settings["address"] = self.address
        try:
            self.ray.init(**settings)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise FluxGuardError(
                f"No Ray cluster answers at {self.address} ({error}).",
                "Start one, or leave the address out to use this machine alone.",
            ) from error
        context = self.ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        return dict(self.ray.cluster_resources())

    def __exit__(self, *error: object) -> None:
        self.ray.shutdown()
