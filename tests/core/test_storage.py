"""Where an inversion's record rests: locked memory at its real size, and devices that cannot do everything."""

from __future__ import annotations

import ast
import gc
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from fluxguard_core import devices
from fluxguard_core.errors import FluxGuardError
from fluxguard_core.flow import Storage, Trajectory, ValueInjection, flux_schedule, generate, invert
from fluxguard_core.flow.pinned import Pinning

from .tiny import noise, tiny_stack

MIB = 2**20
SOURCE = "a plain face"


@dataclass
class Budget:
    """Locks memory up to a limit, and remembers what it was asked."""

    limit: int = 2**40
    locked: dict[int, int] = field(default_factory=dict)
    asked: list[int] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def pin(self, memory: Tensor) -> bool:
        self.asked.append(memory.nbytes)
        if sum(self.locked.values()) + memory.nbytes > self.limit:
            return False
        self.locked[id(memory)] = memory.nbytes
        return True

    def unpin(self, memory: Tensor) -> None:
        del self.locked[id(memory)]

    @property
    def pinning(self) -> Pinning:
        return Pinning(self.pin, self.unpin, self.told.append)

    @property
    def storage(self) -> Storage:
        return Storage("pinned", pinning=self.pinning)


@pytest.fixture
def copying(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU stands for a card whose memory is copied asynchronously."""
    monkeypatch.setitem(devices._TABLE, "cpu", devices.Abilities(asynchronous=True))


def inverted(storage: Storage, solver: str = "midpoint", kept: int = 2) -> Trajectory:
    return invert(
        tiny_stack().field(SOURCE, 1.0),
        noise(1, 16, 8, 8),
        flux_schedule(4, 16),
        solver=solver,  # type: ignore[arg-type]
        value_intervals=kept,
        velocity_storage=storage,
        value_storage=storage,
    )


@pytest.mark.parametrize("solver", ["midpoint", "fireflow", "euler"])
@pytest.mark.parametrize("kept", [0, 2, 4])
def test_locked_memory_is_what_the_record_tells(copying: None, solver: str, kept: int) -> None:
    budget = Budget()
    trajectory = inverted(budget.storage, solver, kept)
    latents = trajectory.source.nbytes + trajectory.terminal.nbytes
    assert sum(budget.locked.values()) == trajectory.bytes - latents
    assert len(budget.asked) == (2 if kept else 1) and not budget.told
    plain = inverted(Storage(), solver, kept)
    assert plain.bytes == trajectory.bytes
    for ours, theirs in zip(trajectory.velocities, plain.velocities, strict=True):
        assert all(torch.equal(a.data, b.data) for a, b in zip(ours, theirs, strict=True))
    assert all(torch.equal(trajectory.values[k].data, plain.values[k].data) for k in plain.values)
    del trajectory, ours
    gc.collect()
    assert not budget.locked


def test_the_default_record_of_a_megapixel_takes_no_more_than_its_tensors() -> None:
    """180 blocks of 24 MiB: rounded up to powers of two they would take 5.6 GiB."""
    budget = Budget()
    with FakeTensorMode():
        shelf = budget.storage.shelf(180)
        value = torch.empty(1, 4096, 3072, dtype=torch.bfloat16, device="cuda:0")
        kept = [shelf.put(value) for _ in range(180)]
        assert {stored.data.device.type for stored in kept} == {"cpu"}
        assert kept[7].load(torch.device("cuda:0")).device.type == "cuda"
    assert sum(budget.locked.values()) == 180 * 24 * MIB == sum(stored.bytes for stored in kept)
    assert max(budget.asked) <= 512 * MIB


def test_a_refused_lock_leaves_plain_memory_and_a_word(copying: None) -> None:
    budget = Budget(limit=0)
    trajectory = inverted(budget.storage)
    assert not budget.locked and len(budget.told) == 2  # velocities, values
    assert all("ordinary memory" in text for text in budget.told)
    field = tiny_stack().field(SOURCE, 1.0)
    edited = generate(field, trajectory, [ValueInjection(trajectory, 2)])
    assert torch.equal(
        edited, generate(field, inverted(Storage()), [ValueInjection(trajectory, 2)])
    )


def test_locks_reach_as_far_as_the_budget(copying: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fluxguard_core.flow.pinned._SLAB", 4096)
    budget = Budget(limit=3 * 4096)
    shelf = budget.storage.shelf(20)
    tensors = [torch.full((512,), float(i)) for i in range(20)]
    kept = [shelf.put(tensor) for tensor in tensors]
    assert sum(budget.locked.values()) == 3 * 4096 and len(budget.told) == 1
    assert all(
        torch.equal(a.load(torch.device("cpu")), b) for a, b in zip(kept, tensors, strict=True)
    )
    one = kept[0]
    del kept, shelf
    gc.collect()
    assert sum(budget.locked.values()) == 4096 and float(one.data[0]) == 0.0


def test_no_memory_at_all_names_smaller_settings(
    copying: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> Tensor:
        raise RuntimeError("DefaultCPUAllocator: not enough memory")

    shelf, tensor = Budget().storage.shelf(4), torch.ones(8)
    monkeypatch.setattr(torch, "empty", refuse)
    with pytest.raises(FluxGuardError, match="fewer value intervals"):
        shelf.put(tensor)


class Ops(TorchDispatchMode):
    """Records where tensors go: target device, number format, and whether the copy waits."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, str, bool]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        made = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            waits = not (kwargs or {}).get("non_blocking", args[2] if len(args) > 2 else False)
            self.seen.append((made.device.type, str(made.dtype), waits))
        return made


def loaded_to(kind: str, stored_form: str, place: str = "pinned") -> list[tuple[str, str, bool]]:
    """What reaches a device of a kind when a value goes to rest and comes back."""
    with FakeTensorMode(), Ops() as ops:
        storage = replace(Budget().storage, format=stored_form, place=place)  # type: ignore[arg-type]
        value = torch.empty(1, 8, 4, dtype=torch.bfloat16, device=f"{kind}:0")
        assert storage.put(value).load(torch.device(f"{kind}:0")).dtype == torch.bfloat16
    return ops.seen


def test_no_fp8_and_no_unwaited_copy_reaches_a_mac() -> None:
    for place in ("pinned", "cpu", "compute"):
        seen = loaded_to("mps", "fp8", place)
        assert ("mps", "torch.float8_e4m3fn", True) not in seen and all(w for *_, w in seen)
    assert any("float8" in form for device, form, _ in loaded_to("cuda", "fp8") if device == "cuda")


def test_copies_overlap_on_cuda_alone() -> None:
    assert all(waits for *_, waits in loaded_to("xpu", "computed"))
    assert [waits for *_, waits in loaded_to("cuda", "computed")] == [False, False]
    assert all(waits for *_, waits in loaded_to("cuda", "computed", "cpu"))


def test_copies_are_ordered_by_the_stream_that_computes() -> None:
    """Only the record's copies go on unwaited, and nothing opens a stream beside the one they are queued in."""
    root = Path(devices.__file__).parents[1]
    unwaited, streams = set(), set()
    for path in (*(root / "fluxguard_core").rglob("*.py"), *(root / "nodes").rglob("*.py")):
        name = path.relative_to(root).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "non_blocking":
                unwaited.add(name)
            if isinstance(node, ast.Attribute) and node.attr in STREAMS:
                streams.update({name} if owner(node) in ("cuda", "xpu", "mps") else ())
    assert unwaited == {"fluxguard_core/flow/storage.py"} and not streams


def owner(node: ast.Attribute) -> str:
    """The last name before an attribute: ``cuda`` of ``torch.cuda.Stream``."""
    return ast.unparse(node.value).split(".")[-1]


STREAMS = {"Stream", "stream", "set_stream", "ExternalStream", "StreamContext"}


def test_schedules_leave_their_device_before_they_become_double() -> None:
    from fluxguard_core.flow.schedule import check_sigmas

    with Ops() as ops:
        check_sigmas(torch.tensor([1.0, 0.5, 0.0]))
    assert ops.seen == [("cpu", "torch.float64", True)]
