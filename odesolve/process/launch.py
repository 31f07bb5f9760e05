"""How this process was started: as which of how many, by torchrun, srun, mpirun or by hand."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from odesolve.errors import OdesolveError

# Variables of the rank, the number of ranks and the rank on this machine, of those that start
# processes. mpirun and mpiexec start their helpers by srun, whose variables the processes then have
# as well. A SLURM batch script has SLURM_PROCID too and is alone: the number of a step's tasks is
# only there within srun.
STARTED_BY = {
    "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    "mpirun": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
    "mpiexec": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
}
SAME_MACHINE = {"mpirun": "OMPI_COMM_WORLD_LOCAL_SIZE", "mpiexec": "MPI_LOCALNRANKS"}
# equal where srun itself speaks PMI
MPIEXEC = {"SLURM_PROCID": "PMI_RANK", "SLURM_STEP_NUM_TASKS": "PMI_SIZE"}
JOB = ("SLURM_JOB_ID", "PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid")
STEP = "SLURM_STEP_ID"  # of a job's steps some may run at the same time
PORTS = (20_000, 20_000)  # the first, and how many
FIRST_HOST = re.compile(r"([^,\[]+)(?:\[(\d+)[^\]]*\])?")


@dataclass(frozen=True)
class Launch:
    """Which of how many processes this is; ``local`` which one of those on its machine, ``by`` what
    started it."""

    rank: int = 0
    count: int = 1
    local: int = 0
    by: str = ""


def launched(env: Mapping[str, str] | None = None) -> Launch:
    """What the environment says of this process; alone where it says nothing. Raises OdesolveError
    where it says half."""
    env = os.environ if env is None else env
    for by, names in STARTED_BY.items():
        rank, count, _ = names
        if rank not in env or count not in env:
            _refuse_half(by, rank, count, env)
            continue
        if by != "torchrun" and env[count] == "1":
            continue
        if by == "srun" and any(
            env.get(name, env.get(own)) != env.get(own) for own, name in MPIEXEC.items()
        ):
            continue
        numbers = [_number(name, env.get(name, "0")) for name in names]
        if not numbers[0] < numbers[1]:
            raise OdesolveError(
                f"{rank}={env[rank]} and {count}={env[count]}: give ranks from 0 to {count} - 1"
            )
        return Launch(numbers[0], numbers[1], numbers[2], by)
    return Launch()


def own_device(launch: Launch | None = None) -> None:
    """Make "cuda" this process's own GPU: that of its rank on its machine, or the only one that it
    sees."""
    launch = launched() if launch is None else launch
    if launch.by and torch.cuda.is_available():
        seen = torch.cuda.device_count()
        torch.cuda.set_device(launch.local % seen if seen else launch.local)


def _refuse_half(by: str, rank: str, count: str, env: Mapping[str, str]) -> None:
    """Raise OdesolveError where one of the two is set that would make this process one of many."""
    first = by == "srun" and env.get(rank, "0") == "0"  # as in a batch script
    if (rank in env) != (count in env) and not first:
        given, missing = (rank, count) if rank in env else (count, rank)
        raise OdesolveError(f"the environment has {given} without {missing}: set both")


def address(launch: Launch, env: Mapping[str, str] | None = None) -> tuple[str, int]:
    """Host and port at which the ranks meet: MASTER_ADDR and MASTER_PORT, or what the launcher
    tells.

    Raises OdesolveError where neither says.
    """
    env = os.environ if env is None else env
    job = next((env[name] for name in JOB if name in env), str(os.getppid())) + env.get(STEP, "")
    port = _number(
        "MASTER_PORT", env.get("MASTER_PORT", str(PORTS[0] + zlib.crc32(job.encode()) % PORTS[1]))
    )
    host = env.get("MASTER_ADDR") or _host(launch, env)
    if host is None:
        raise OdesolveError(
            f"{launch.count} processes were started by {launch.by} and nothing says where the "
            "first of them runs: "
            "set MASTER_ADDR (its host) and MASTER_PORT, or use torchrun"
        )
    return host, port


def _host(launch: Launch, env: Mapping[str, str]) -> str | None:
    nodes = (
        env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST")
        if launch.by == "srun"
        else None
    )
    if nodes and (first := FIRST_HOST.match(nodes)):
        return first[1] + (first[2] or "")
    here = env.get(SAME_MACHINE.get(launch.by, ""))
    return "127.0.0.1" if here == str(launch.count) else None


def _number(name: str, value: str) -> int:
    if not value.isdecimal():
        raise OdesolveError(f"{name}={value!r} in the environment: set a whole number")
    return int(value)
