"""As which of how many a process was started, by the variables of those that start processes."""

from __future__ import annotations

import pytest

import odesolve as ode
from odesolve.errors import OdesolveError
from odesolve.process.launch import Launch, address, launched

SRUN = {
    "SLURM_PROCID": "5",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "8",
    "SLURM_JOB_ID": "77",
}
MPIRUN = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
}
MPIEXEC = {"PMI_RANK": "2", "PMI_SIZE": "4", "MPI_LOCALRANKID": "0"}
TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}


@pytest.mark.parametrize(
    ("env", "found"),
    [
        ({}, Launch()),
        (TORCHRUN, Launch(3, 4, 1, "torchrun")),
        (SRUN, Launch(5, 8, 1, "srun")),
        (SRUN | TORCHRUN, Launch(3, 4, 1, "torchrun")),  # torchrun within srun
        # a batch script, which is alone
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "77"}, Launch()),
        (SRUN | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, Launch()),
        (MPIRUN, Launch(1, 4, 1, "mpirun")),
        (MPIEXEC, Launch(2, 4, 0, "mpiexec")),
        (SRUN | MPIRUN, Launch(1, 4, 1, "mpirun")),  # whose helpers srun has started
        (SRUN | MPIEXEC, Launch(2, 4, 0, "mpiexec")),
        (SRUN | {"PMI_RANK": "5", "PMI_SIZE": "8"}, Launch(5, 8, 1, "srun")),  # srun --mpi=pmi2
        ({"RANK": "0", "WORLD_SIZE": "1"}, Launch(0, 1, 0, "torchrun")),
    ],
)
def test_what_started_this(env, found):
    assert launched(env) == found


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"RANK": "0"}, "RANK without WORLD_SIZE"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE without RANK"),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, "SLURM_PROCID without SLURM_STEP_NUM_TASKS"),
        ({"OMPI_COMM_WORLD_RANK": "0"}, "OMPI_COMM_WORLD_RANK without OMPI_COMM_WORLD_SIZE"),
        ({"PMI_SIZE": "2"}, "PMI_SIZE without PMI_RANK"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "give ranks from 0 to WORLD_SIZE - 1"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK='-1'"),
        (MPIRUN | {"OMPI_COMM_WORLD_SIZE": "four"}, "OMPI_COMM_WORLD_SIZE='four'"),
    ],
)
def test_half_a_start_is_refused(env, said):
    with pytest.raises(OdesolveError, match=said):
        launched(env)


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("node[003-005,7],gpu2", "node003"),
        ("gpu7", "gpu7"),
        ("a-1,b-2", "a-1"),
        ("n[12,14]", "n12"),
    ],
)
def test_the_first_node_of_a_step(nodes, host):
    env = SRUN | {"SLURM_STEP_NODELIST": nodes}
    where = address(launched(env), env)
    assert where[0] == host
    assert where == address(launched(env | {"SLURM_PROCID": "0"}), env)  # the same on every rank
    assert address(launched(env), env | {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1234"}) == (
        "10.0.0.1",
        1234,
    )


def test_one_machine_needs_no_address():
    env = MPIRUN | {"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}
    assert address(launched(env), env)[0] == "127.0.0.1"
    for other in (MPIRUN | {"OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, MPIEXEC):
        with pytest.raises(OdesolveError, match="set MASTER_ADDR"):
            address(launched(other), other)


def test_steps_of_a_job_meet_at_their_own_ports():
    steps = [SRUN | {"SLURM_STEP_NODELIST": "gpu7", "SLURM_STEP_ID": step} for step in ("0", "1")]
    assert len({address(launched(env), env) for env in steps}) == 2


def test_ranks_that_do_not_meet(monkeypatch):
    """By an error of ours, which says what to set."""
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        OdesolveError,
        match=r"2 ranks did not meet.*set MASTER_ADDR and "
        r"MASTER_PORT",
    ):
        ode.distributed.mesh(timeout=1.0)
