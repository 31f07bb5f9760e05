"""What decides the answers of code: its instructions and constants, and the globals that it names;
and whether it is a library's or the user's."""

from __future__ import annotations

import dis
import os
import sys
import sysconfig
import types
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from typing import Any, NamedTuple

from odesolve.errors import __file__ as _OURS

# Members of a class that decide no answer, such as the constructor, whose outcome is looked at
# itself.
_SILENT = """
    __init__ __new__ __post_init__ __module__ __dict__ __weakref__ __doc__ __annotations__
    __qualname__ __firstlineno__
    __static_attributes__ __slots__ __match_args__
    __slotnames__ __parameters__ __orig_bases__ __abstractmethods__ _abc_impl __replace__
    __repr__ __str__ __reduce__ __reduce_ex__ __getstate__ __setstate__ __del__
    __dataclass_fields__ __dataclass_params__
    __annotate__ __annotate_func__ __annotations_cache__ __classcell__ extra_repr reset_parameters
    training_step
    validation_step test_step configure_optimizers __fingerprint__
"""
SILENT = frozenset(_SILENT.split())
SHAPED = 0x3AC  # the flags of code that say how it is called: *args, **kwargs, generator, coroutine
READS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
HEAP = 1 << 9  # the flag of classes that were made by a class statement
GENERATED = "<string>"  # where code that dataclasses and named tuples write comes from
FOREIGN = ("site-packages", "dist-packages")
FOLDERS = tuple(
    os.path.realpath(folder) + os.sep
    for folder in (
        os.path.dirname(_OURS),
        *(sysconfig.get_path(n) or "" for n in ("stdlib", "platstdlib")),
    )
    if folder
)
OF_LIBRARIES = ("odesolve", "torch", "numpy", "builtins")
SLOT = types.MemberDescriptorType | types.GetSetDescriptorType
NO_HOME = ("__main__", "__mp_main__")


class Names(NamedTuple):
    """A module of the user's, and the names of its members that code uses."""

    module: types.ModuleType
    names: frozenset[str]


@cache
def in_library(file: str) -> bool:
    """Whether a source file belongs to a library, whose version stands for it, rather than to the
    user."""
    if file.startswith("<frozen") or any(part in FOREIGN for part in file.split(os.sep)):
        return True
    real = os.path.realpath(file)
    return real.startswith(FOLDERS) or _unpacked(real)


def _unpacked(file: str) -> bool:
    """Whether a file came with a wheel into a folder of another name, by ``pip install --target``;
    files of the user's may lie beside it."""
    for entry in sys.path:
        folder = os.path.join(os.path.realpath(entry), "")
        if file.startswith(folder) and file[len(folder) :].split(os.sep)[0] in _wheels(folder):
            return True
    return False


@cache
def _wheels(folder: str) -> frozenset[str]:
    """What the wheels in a folder consist of, at its top. Only a wheel has a RECORD: the metadata
    of a project that is being written (.egg-info) has none."""
    records = [d.read_text("RECORD") or "" for d in metadata.distributions(path=[folder])]
    lines = (line for record in records for line in record.splitlines())
    return frozenset(line.split(",")[0].split("/")[0] for line in lines)


@cache
def module_in_library(name: str) -> bool:
    """The same for a module, by its name."""
    top = name.partition(".")[0]
    if top in OF_LIBRARIES or (top in sys.stdlib_module_names and name not in NO_HOME):
        return True
    file = getattr(sys.modules.get(name), "__file__", None)
    return file is not None and in_library(file)


def of_library(value: Any) -> bool:
    """Whether a class or a function is a library's: by the file of its code, else by its module."""
    if isinstance(value, types.FunctionType):
        return in_library(value.__code__.co_filename)
    methods = [f for f in vars(value).values() if isinstance(f, types.FunctionType)]
    files = [f.__code__.co_filename for f in methods]
    written = [file for file in files if file != GENERATED]
    if written:
        return in_library(written[0])
    name = getattr(value, "__module__", None) or ""
    by_exec = name == "builtins" and value.__flags__ & HEAP  # a class without a module
    return not by_exec and module_in_library(name)


def named(value: Any) -> str:
    """The full name of a class or function."""
    name = getattr(value, "__qualname__", type(value).__qualname__)
    return f"{getattr(value, '__module__', None)}.{name}"


def code_parts(code: types.CodeType, doc: str | None = None) -> Iterator[tuple[str, Any]]:
    """What decides what code does, without its place in a file and the names of its variables."""
    consts = code.co_consts
    if doc is not None and consts and consts[0] == doc:
        consts = (None, *consts[1:])  # as a function without a docstring has it
    yield (
        "shape",
        (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags & SHAPED),
    )
    yield "arguments", code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    yield "instructions", code.co_code
    yield "names", code.co_names
    yield "constants", consts
    yield "handlers", getattr(code, "co_exceptiontable", b"")


@cache
def uses(code: types.CodeType) -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
    """The globals that code and the functions within it name, the modules that they import, and all
    names of attributes."""
    read = set()
    imported = set()
    names = set(code.co_names)
    for i in dis.get_instructions(code):
        if i.opname in READS:
            read.add(i.argval)
        elif i.opname == "IMPORT_NAME":
            imported.add(i.argval)
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            for mine, theirs in zip((read, imported, names), uses(inner), strict=True):
                mine |= theirs
    return frozenset(read), frozenset(imported), frozenset(names)


def cells(fn: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """The closure of a function, in its order."""
    names = uses(fn.__code__)[2]
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        try:
            yield name, used(cell.cell_contents, names)
        except ValueError:  # nothing in it yet
            yield name, "(empty)"


def outside(fn: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """The globals and imports that a function uses, by name."""
    read, imported, names = uses(fn.__code__)
    for name in sorted(read & fn.__globals__.keys()):
        yield name, used(fn.__globals__[name], names)
    for name in sorted(imported & sys.modules.keys()):
        yield f"import {name}", used(sys.modules[name], names)


def used(value: Any, names: frozenset[str]) -> Any:
    """The value itself; for a module, its members that code with these names may use."""
    if isinstance(value, types.ModuleType):
        return seen_by(value, names)
    return value


@cache
def seen_by(module: types.ModuleType, names: frozenset[str]) -> Names:
    """One object per module and names, so that a walk sees where modules use each other."""
    return Names(module, names)


def members(cls: type) -> Iterator[tuple[str, Any]]:
    """The methods and constants of a class, without those of its bases."""
    for name, value in vars(cls).items():
        if name not in SILENT and not _generated(name, value) and not isinstance(value, SLOT):
            yield name, value


def _generated(name: str, value: Any) -> bool:
    """Whether a dataclass wrote a method, which then follows from its fields."""
    if not isinstance(value, types.FunctionType):
        return False
    return value.__code__.co_filename == GENERATED and name[:2] == "__"
