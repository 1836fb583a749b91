"""A SLURM of several virtual nodes on this machine, all of it in one folder.

Debian's packages are made for several `slurmd` on one host. Nodes are named by addresses of this
machine, so that the first one's name resolves without a line in the hosts file. Nothing of the
system's own SLURM or munge is used.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "scancel")
SECONDS = 300.0

CONFIGURATION = """
ClusterName=local
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/spool_%n
SlurmdPidFile={folder}/slurmd_%n.pid
SlurmdLogFile={folder}/slurmd_%n.log
SlurmdParameters=config_overrides
SlurmdTimeout=15
InactiveLimit=0
KillWait=30
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
ReturnToService=2
"""

SACCT = """#!/bin/sh
# What submitit asks `sacct` for, without the database that it reads.
echo 'JobID|State|NodeList'
scontrol --oneliner show job | awk '{
    split("", v)
    for (i = 1; i <= NF; i++) { split($i, pair, "="); v[pair[1]] = pair[2] }
    job = v["JobId"]
    if ("ArrayJobId" in v) job = v["ArrayJobId"] "_" v["ArrayTaskId"]
    if (job ~ /[-,%]/) { sub("_", "_[", job); job = job "]" }
    print job "|" v["JobState"] "|" v["NodeList"]
}'
"""


def missing() -> str:
    """The programs that are not here, as a reason to skip; empty where all are."""
    absent = [name for name in PROGRAMS if _program(name) is None]
    return f"no {', '.join(absent)} on this machine" if absent else ""


def _program(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


class Cluster:
    """A running cluster.

    Args:
        folder: takes its configuration, state and logs; an empty one with a short path.
        nodes: how many.
    """

    def __init__(self, folder: Path, nodes: int) -> None:
        self.folder = folder
        self.nodes = [f"127.0.0.{number}" for number in range(1, nodes + 1)]
        self.environment = {
            **os.environ,
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": f"{folder}:{os.environ['PATH']}",
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        (self.folder / "state").mkdir()
        (self.folder / "sacct").write_text(SACCT)
        (self.folder / "sacct").chmod(0o755)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        ports = _free_ports(len(self.nodes) + 1)
        user = subprocess.check_output(["id", "-un"], text=True).strip()
        host = socket.gethostname().partition(".")[0]
        lines = CONFIGURATION.format(host=host, port=ports[0], user=user, folder=self.folder)
        for node, port in zip(self.nodes, ports[1:], strict=True):
            lines += (
                f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 "
                "RealMemory=1000\n"
            )
        lines += f"PartitionName=main Nodes={','.join(self.nodes)} Default=YES State=UP\n"
        (self.folder / "slurm.conf").write_text(lines)
        self._start(
            "munged", "--foreground", "--force", f"--key-file={key}",
            f"--socket={self.folder}/munge.socket", f"--pid-file={self.folder}/munged.pid",
            f"--log-file={self.folder}/munged.log", f"--seed-file={self.folder}/munged.seed",
        )  # fmt: skip
        wait_for((self.folder / "munge.socket").exists)
        self._start("slurmctld", "-D")
        for node in self.nodes:
            self.start_node(node)
        wait_for(lambda: self.states() == dict.fromkeys(self.nodes, "idle"))

    def start_node(self, node: str) -> None:
        """Start the daemon of a node."""
        self._start("slurmd", "-D", "-N", node, name=node)

    def kill_node(self, node: str) -> None:
        """Kill the daemon of a node; the tasks there live on."""
        self._processes[node].send_signal(signal.SIGKILL)
        self._processes[node].wait()

    def stop(self) -> None:
        """End the daemons, and whatever a test that failed has left of its jobs."""
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if self._has(process):
                    process.kill()
        for daemon in self._processes.values():
            daemon.kill()
            daemon.wait()

    def _has(self, process: psutil.Process) -> bool:
        """Whether a process is of this cluster: a task or command, or a daemon or its child."""
        known = process.environ().get("SLURM_CONF") == self.environment["SLURM_CONF"]
        return known or process.cwd() == str(self.folder)

    def states(self) -> dict[str, str]:
        """What each node is, such as idle, by name."""
        found = self.ask("sinfo", "--noheader", "--Node", "--format=%N %t")
        return dict(line.split() for line in found.splitlines())

    def state(self, job: str) -> str:
        """What a job is, such as RUNNING."""
        return self._of_job(job, "JobState", "")

    def restarts(self, job: str) -> int:
        """Times that a job was requeued."""
        return int(self._of_job(job, "Restarts", "0"))

    def _of_job(self, job: str, field: str, default: str) -> str:
        shown = self.ask("scontrol", "show", "job", job)
        found = re.search(rf"\b{field}=(\S+)", shown)
        return default if found is None else found[1]

    def ask(self, *command: str) -> str:
        """What one of SLURM's commands prints; empty where it fails."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        return done.stdout

    def _start(self, program: str, *arguments: str, name: str | None = None) -> None:
        found = _program(program)
        assert found is not None
        with (self.folder / f"{program}.out").open("ab") as output:
            self._processes[name or program] = subprocess.Popen(
                [found, *arguments], cwd=self.folder, env=self.environment,
                stdout=output, stderr=output,
            )  # fmt: skip


def wait_for(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@contextmanager
def slurm_cluster(folder: Path, nodes: int) -> Iterator[Cluster]:
    """A cluster that is stopped when the block ends."""
    cluster = Cluster(folder, nodes)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
