"""How this process was started: its rank and the number of ranks, by torchrun, srun, mpirun or by
hand."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from odesolve.errors import OdesolveError

# Variables of the rank, the number of ranks and the rank on this machine, by the program that
# starts the processes. mpirun and mpiexec start their helpers by srun, so that the processes have
# its variables as well. A SLURM batch script has SLURM_PROCID, too, and is alone: the number of a
# step's tasks is only set within srun.
STARTED_BY = {
    "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    "mpirun": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
    "mpiexec": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
}
SAME_MACHINE = {"mpirun": "OMPI_COMM_WORLD_LOCAL_SIZE", "mpiexec": "MPI_LOCALNRANKS"}
# these are equal where srun itself starts by PMI
MPIEXEC = {"SLURM_PROCID": "PMI_RANK", "SLURM_STEP_NUM_TASKS": "PMI_SIZE"}
JOB = ("SLURM_JOB_ID", "PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid")
STEP = "SLURM_STEP_ID"  # some steps of a job may run at the same time
PORTS = (20_000, 20_000)  # the first, and how many
FIRST_HOST = re.compile(r"([^,\[]+)(?:\[(\d+)[^\]]*\])?")


@dataclass(frozen=True)
class Launch:
    """The ``rank`` of this process among ``count``, its ``local`` rank on its machine, and the
    program that started it, ``by``."""

    rank: int = 0
    count: int = 1
    local: int = 0
    by: str = ""


def launched(env: Mapping[str, str] | None = None) -> Launch:
    """The launch that the environment describes, else that of a process alone. Raises OdesolveError
    where only half of the variables are set."""
    env = os.environ if env is None else env
    for by, names in STARTED_BY.items():
        rank, count, _ = names
        if rank not in env or count not in env:
            _refuse_half(by, rank, count, env)
            continue
        if by != "torchrun" and env[count] == "1":
            continue
        if by == "srun" and _started_by_mpiexec(env):
            continue
        numbers = [_number(name, env.get(name, "0")) for name in names]
        if not numbers[0] < numbers[1]:
            raise OdesolveError(
                f"{rank}={env[rank]} and {count}={env[count]}: give ranks from 0 to {count} - 1"
            )
        return Launch(numbers[0], numbers[1], numbers[2], by)
    return Launch()


def _started_by_mpiexec(env: Mapping[str, str]) -> bool:
    """Whether srun only started the helpers of mpiexec, whose numbers differ from its own."""
    pairs = [(env.get(srun), env.get(mpiexec)) for srun, mpiexec in MPIEXEC.items()]
    return any(mpiexec not in (None, srun) for srun, mpiexec in pairs)


def own_device(launch: Launch | None = None) -> None:
    """Make "cuda" this process's own GPU: that of its local rank, or the only one that it sees."""
    launch = launched() if launch is None else launch
    if launch.by and torch.cuda.is_available():
        devices = torch.cuda.device_count()
        torch.cuda.set_device(launch.local % devices if devices else launch.local)


def _refuse_half(by: str, rank: str, count: str, env: Mapping[str, str]) -> None:
    """Raise OdesolveError where only one of the two is set that make this process one of many."""
    first = by == "srun" and env.get(rank, "0") == "0"  # as in a batch script
    if (rank in env) != (count in env) and not first:
        given, missing = (rank, count) if rank in env else (count, rank)
        raise OdesolveError(f"the environment has {given} without {missing}: set both")


def address(launch: Launch, env: Mapping[str, str] | None = None) -> tuple[str, int]:
    """The host and the port at which the ranks meet: MASTER_ADDR and MASTER_PORT, or those that
    follow from the launcher's variables.

    Raises OdesolveError where nothing names the host.
    """
    env = os.environ if env is None else env
    port = _number("MASTER_PORT", env.get("MASTER_PORT", str(_job_port(env))))
    host = env.get("MASTER_ADDR") or _host(launch, env)
    if host is None:
        raise OdesolveError(
            f"{launch.count} processes were started by {launch.by} and nothing says where the "
            "first of them runs: set MASTER_ADDR (its host) and MASTER_PORT, or use torchrun"
        )
    return host, port


def _job_port(env: Mapping[str, str]) -> int:
    """A port that all processes of a job compute alike, and other jobs hardly share."""
    names = [env[name] for name in JOB if name in env]
    job = names[0] if names else str(os.getppid())
    first, count = PORTS
    return first + zlib.crc32((job + env.get(STEP, "")).encode()) % count


def _host(launch: Launch, env: Mapping[str, str]) -> str | None:
    nodes = None
    if launch.by == "srun":
        nodes = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST")
    if nodes and (first := FIRST_HOST.match(nodes)):
        return first[1] + (first[2] or "")
    here = env.get(SAME_MACHINE.get(launch.by, ""))
    return "127.0.0.1" if here == str(launch.count) else None


def _number(name: str, value: str) -> int:
    if not value.isdecimal():
        raise OdesolveError(f"{name}={value!r} in the environment: set a whole number")
    return int(value)
