"""Cards that are not there, with real numbers on them: PyTorch's further CPUs, on which nothing lies by itself.

Whatever runs on one is computed, so loops that look at their losses run as they would; and it is as strict as a card
about what meets what.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torchgen
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torchgen.gen import parse_native_yaml
from torchgen.model import DispatchKey

CARD, OTHER = torch.device("cpu", 1), torch.device("cpu", 2)
ATEN = torch.ops.aten
# Here alone tensors of two devices may meet.
_COPIES = {ATEN._to_copy.default, ATEN.copy_.default}
_READS = {ATEN._local_scalar_dense.default, ATEN.equal.default, ATEN.nonzero.default}
_INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
# A number of the CPU may meet tensors of the card, but not be joined to them.
UNEVEN_MEANS = "_adaptive_avg_pool2d, uneven"  # https://github.com/pytorch/pytorch/issues/96056
_CHOSEN_BY_CPUS = {
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention_for_cpu_backward",
}
_JOINED = {"stack", "cat", "mm", "bmm", "addmm", "convolution", "index_select", "gather"}


class OnCard(Tensor):
    """A tensor on a card; ``held`` are its numbers."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor, card: torch.device) -> OnCard:
        made: OnCard = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=card,
        )
        made.held = held
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnCard({list(self.held.shape)}, {self.held.dtype})"

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def new_tensor(self, data: Any, *, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
        return torch.tensor(data, dtype=dtype or self.dtype).to(self.device)

    def numpy(self, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        raise TypeError("can't convert cuda:0 device type tensor to numpy.")

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        raise RuntimeError(f"{func} met a tensor of the card after the card was closed")


class _Made(TorchFunctionMode):
    """Numbers from Python come by way of the CPU, of which PyTorch sees but one here."""

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = torch.device(kwargs.pop("device"))
            return func(*args, **kwargs).to(device)
        return func(*args, **kwargs)


class Card(TorchDispatchMode):
    """What is computed on the card while this is open.

    Args:
        lacks: number formats that it does not hold.
    """

    def __init__(self, *lacks: torch.dtype) -> None:
        super().__init__()
        self.lacks = lacks
        self.names: set[str] = set()
        self.reads = 0
        self._made = _Made()

    def __enter__(self) -> Card:
        self._moving = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(
            True
        )  # weights that move are new
        super().__enter__()
        self._made.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._made.__exit__(*error)
        super().__exit__(*error)
        torch.__future__.set_overwrite_module_params_on_conversion(self._moving)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        kwargs = dict(kwargs or {})
        given = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        cards = {x.device for x in given if isinstance(x, OnCard)}
        where = kwargs.get("device")
        place = next(iter(cards), None) if where is None else torch.device(where)
        lands = None if place is None or not place.index else place
        if cards or lands is not None:
            self._check(func, args, given, cards, kwargs.get("generator"))
            self.names.add(_named(func, args))
            self.reads += bool(cards) and func in _READS
        if lands is not None and where is not None:
            kwargs["device"] = torch.device("cpu")
        made = func(*tree_map(_held, args), **tree_map(_held, kwargs))
        if func.overloadpacket.__name__.endswith("_") and isinstance(args[0], Tensor):
            return args[0]
        return made if lands is None else tree_map(lambda x: self._bring(x, lands), made)

    def _bring(self, made: Any, card: torch.device) -> Any:
        if not isinstance(made, Tensor):
            return made
        if made.dtype in self.lacks:
            raise TypeError(f"Cannot convert a tensor of the card to {made.dtype}.")
        return OnCard(made, card)

    def _check(
        self,
        func: Any,
        args: Any,
        given: list[Tensor],
        cards: set[torch.device],
        generator: Any,
    ) -> None:
        name = func.overloadpacket.__name__
        if generator is not None:
            raise RuntimeError(f"{func}: a generator of the CPU draws nothing on the card")
        if func in _COPIES or not cards:
            return
        if name in _INDEXED:
            if not isinstance(args[0], OnCard):
                raise RuntimeError(f"{func}: indices should be on the CPU")
            given = [x for x in given if isinstance(x, OnCard)]
        for x in given:
            number = not isinstance(x, OnCard) and x.ndim == 0 and name not in _JOINED
            if (x.device not in cards and not number) or len(cards) > 1:
                raise RuntimeError(
                    f"{func}: Expected all tensors to be on the same device, but found one {list(x.shape)} on "
                    f"{x.device} beside {cards}."
                )


def _named(func: Any, args: Any) -> str:
    name: str = func.overloadpacket.__name__
    if name == "_adaptive_avg_pool2d" and any(
        had % has for had, has in zip(args[0].shape[-2:], args[1], strict=True)
    ):
        return UNEVEN_MEANS
    return name


def _held(x: Any) -> Any:
    return x.held if isinstance(x, OnCard) else x


@lru_cache
def _tables() -> Any:
    folder = Path(torchgen.__file__).parent / "packaged" / "ATen" / "native"
    return parse_native_yaml(str(folder / "native_functions.yaml"), str(folder / "tags.yaml"), None)


@lru_cache
def without_a_kernel() -> frozenset[str]:
    """Operations that PyTorch's own table has a kernel for on CPUs, and none on Macs."""
    parsed = _tables()
    cpu, mac = (parsed.backend_indices[key] for key in (DispatchKey.CPU, DispatchKey.MPS))
    there, missing = set(_CHOSEN_BY_CPUS), set()
    for f in parsed.native_functions:
        if mac.has_kernel(f) or f.has_composite_kernel:
            there.add(f.func.name.name.base)
        elif cpu.has_kernel(f):
            missing.add(f.func.name.name.base)
    return frozenset(missing - there) | {UNEVEN_MEANS}
