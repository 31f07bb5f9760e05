"""The ops in C++ on the CPU: the functions of ``odesolve._native`` themselves, which take
positional arguments.

They take the arguments of ``reference`` and return False, with nothing written, for those that they
leave to it: tensors that are no plain CPU tensors or are watched by autograd, outputs that overlap
something, shapes that do not fit. Importing this fails, with the reason, where they cannot run at
all: with ModuleNotFoundError where they were not compiled, on which tests skip, and with
ImportError where something is wrong with them."""

from __future__ import annotations

import importlib
from pathlib import Path

import torch


def _load():
    table = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)
    if table is None:
        raise ImportError(
            f"torch {torch.__version__} has no DLPack C exchange table; torch 2.10 "
            "and newer have one"
        )
    try:
        module = importlib.import_module("odesolve._native")
    except ModuleNotFoundError as e:
        raise ModuleNotFoundError(
            "the kernels in C++ were not compiled: install g++ and python3-dev, then odesolve again"
        ) from e
    except ImportError as e:
        raise ImportError(f"the compiled module does not load: {e}") from e
    library = next(Path(torch.__file__).parent.glob("lib/libtorch_cpu.*"), "")
    tensors = (torch.Tensor, torch.nn.Parameter, table)
    module.bind(*tensors, torch.is_grad_enabled, torch._C._increment_version, str(library))
    return module


_native = _load()

ISA: str = _native.isa  # instruction set in use; the environment variable ODESOLVE_ISA caps it


def __getattr__(name: str):
    """The op of this name; AttributeError where it was not written in C++."""
    return getattr(_native, name)
