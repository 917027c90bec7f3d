"""Several processes of one run: starting, exchanging, agreeing, and leaving when one is lost.

All processes run the same program and reach the same calls of this module in the same order.
With one process every function is the obvious thing at no cost.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, NoReturn

import jax
import numpy as np

from wlsrl_jax.files import Mistake
from wlsrl_jax.runtime.stop import EXIT_PREEMPTED, SIGNALS, PreemptedError, StopRequest

EXIT_LOST_PROCESS = 76
"""Exit status of a process that left because another one of the run had gone."""

BEAT_SECONDS = 2.0
LOST_SECONDS = 30.0  # without a sign of life
TELL_SECONDS = 10.0  # between two lines about waiting for the others


class AgreedError(Mistake):
    """An error that every process of the run raises, each with the message of the first."""


def initialize(
    coordinator: str | None = None,
    count: int | None = None,
    index: int | None = None,
    *,
    detect: bool = False,
    timeout: int = 300,
) -> None:
    """Joins the other processes of the run, if there are any; call before JAX is used.

    SLURM steps, Open MPI and TPU pods on GKE are recognised by their environment.

    Args:
      coordinator: ``host:port`` of process 0; None: JAX_COORDINATOR_ADDRESS, if it is set.
      count: number of processes; None: JAX_NUM_PROCESSES.
      index: of this one; None: JAX_PROCESS_ID.
      detect: let JAX find the three where nothing in the environment tells of others, as on
        Cloud TPU VMs.
      timeout: how long to wait for the others, seconds; then this process leaves.

    Raises:
      Mistake: if only some are given, or they do not fit.
    """
    coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS") or None
    count = _from_environment("JAX_NUM_PROCESSES") if count is None else count
    index = _from_environment("JAX_PROCESS_ID") if index is None else index
    given = (coordinator, count, index)
    if any(v is not None for v in given):
        if any(v is None for v in given):
            raise Mistake(
                "--coordinator_address, --num_processes and --process_id go together; "
                f"got {coordinator}, {count}, {index}."
            )
        assert coordinator is not None and count is not None and index is not None
        host, _, port = coordinator.rpartition(":")
        if not (host and port.isdigit() and 0 < int(port) < 2**16):
            raise Mistake(
                f"--coordinator_address={coordinator} must read HOST:PORT, PORT in 1..65535."
            )
        if not 0 <= index < count:
            raise Mistake(f"--process_id={index} must be in 0..{count - 1} (--num_processes).")
        if count == 1:
            return
        arguments: dict[str, Any] = {
            "coordinator_address": coordinator,
            "num_processes": count,
            "process_id": index,
            "cluster_detection_method": "deactivate",
        }
    elif detect or launched_with_others():
        arguments = {}
    else:
        return
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM over
    _join(arguments, timeout, "this process" if index is None else f"process {index} of {count}")
    if jax.process_count() > 1:
        _Watch().start()


def _from_environment(name: str) -> int | None:
    """A number that a launcher has set; what is no number is told as of ``name``."""
    text = os.environ.get(name, "")
    if not text:
        return None
    if not text.isdigit():
        raise Mistake(f"{name}={text!r} in the environment must be a whole number.")
    return int(text)


def _join(arguments: dict[str, Any], timeout: int, who: str) -> None:
    """Waits for the others, speaking now and then; a signal or the end of time ends the process.

    JAX waits in compiled code that no signal handler interrupts, and aborts in the end.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    joined = threading.Event()
    watcher = threading.Thread(target=_while_waiting, args=(joined, timeout, who), daemon=True)
    watcher.start()
    try:
        jax.distributed.initialize(**arguments, initialization_timeout=timeout + 60)
    except ValueError as error:
        raise Mistake(
            f"the other processes of this launcher cannot be found ({error}); give "
            "--coordinator_address, --num_processes and --process_id."
        ) from None
    finally:
        joined.set()
        watcher.join()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _while_waiting(joined: threading.Event, timeout: int, who: str) -> None:
    start, told = time.monotonic(), 0.0
    while not joined.is_set():
        caught = signal.sigtimedwait(SIGNALS, 0.1)
        if caught and joined.is_set():
            os.kill(os.getpid(), caught.si_signo)  # for the one who looks at it from now on
        elif caught:
            name = signal.Signals(caught.si_signo).name
            print(f"{who}: stopped by {name}; start again with the same command", file=sys.stderr,
                  flush=True)  # fmt: skip
            os._exit(EXIT_PREEMPTED)
        waited = time.monotonic() - start
        if waited > timeout:
            _leave(who, f"the others did not come within {timeout} s")
        if waited - told > TELL_SECONDS:
            told = waited
            print(f"{who}: waiting for the others for {waited:.0f} s", file=sys.stderr, flush=True)


def launched_with_others() -> bool:
    """Whether a launcher that JAX knows has started more processes than this one."""
    sizes = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
    if any(os.environ.get(name, "1").isdigit() and int(os.environ.get(name, "1")) > 1
           for name in sizes):  # fmt: skip
        return True
    return "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")


def is_primary() -> bool:
    """Whether this is the process that writes files and speaks to the user."""
    return jax.process_index() == 0


def say(text: str) -> None:
    """Prints a line once for all processes."""
    if is_primary():
        print(text, flush=True)


def gather_bytes(data: bytes) -> list[bytes]:
    """Gives every process the bytes of all, in the order of the processes."""
    if jax.process_count() == 1:
        return [data]
    from jax.experimental import multihost_utils

    lengths = multihost_utils.process_allgather(np.asarray(len(data), np.int64))
    room = 1 << max(int(lengths.max()) - 1, 63).bit_length()  # few sizes, few compilations
    padded = np.zeros(room, np.uint8)
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    rows = multihost_utils.process_allgather(padded)
    return [row[:n].tobytes() for row, n in zip(rows, lengths, strict=True)]


def gather(value: Any) -> list[Any]:
    """Gives every process the JSON value of all."""
    if jax.process_count() == 1:
        return [value]
    return [json.loads(part) for part in gather_bytes(json.dumps(value).encode())]


def from_primary(value: Any) -> Any:
    """Gives every process the JSON value of process 0."""
    return gather(value if is_primary() else None)[0]


def check_same(values: dict[str, Any]) -> None:
    """Checks that all processes were started alike; else they would wait for each other.

    Args:
      values: what to compare, by name.

    Raises:
      AgreedError: names what differs, and in which process.
    """
    everywhere = gather(values)
    for index, theirs in enumerate(everywhere):
        for name, value in everywhere[0].items():
            if theirs[name] != value:
                raise AgreedError(
                    f"process {index} was started with another {name} than process 0; give all "
                    "processes the same command and code."
                )


@contextlib.contextmanager
def agreed() -> Iterator[None]:
    """Lets an error of one process end all of them, so that none waits for it.

    The block must not exchange anything itself.

    Raises:
      AgreedError: on every process, if the block failed on one of several.
    """
    if jax.process_count() == 1:
        yield
        return
    problem = None
    try:
        yield
    except (Mistake, OSError) as error:
        problem = str(error)
    found = [text for text in gather(problem) if text is not None]
    if found:
        raise AgreedError(found[0])


class AgreedStop(StopRequest):
    """A stop request that all processes see at the same look, whoever got the signal.

    Each look sends this process's signal and reads what the look before has brought from all,
    so that the devices never wait for it.
    """

    def __init__(self, own: StopRequest) -> None:
        super().__init__()
        self._own = own
        devices = np.asarray(sorted(jax.devices(), key=lambda d: (d.process_index, d.id)))
        mesh = jax.sharding.Mesh(devices, "all")
        self._split = jax.NamedSharding(mesh, jax.sharding.PartitionSpec("all"))
        whole = jax.NamedSharding(mesh, jax.sharding.PartitionSpec())
        self._largest = jax.jit(lambda x: x.max(), out_shardings=whole)
        self._before: jax.Array | None = None

    def check(self) -> None:
        """Raises ``PreemptedError`` on every process at the same call."""
        mine = np.full(jax.local_device_count(), self._own.signal, np.int32)
        flags = jax.make_array_from_process_local_data(self._split, mine)
        before, self._before = self._before, self._largest(flags)
        if before is not None and (number := int(before)):
            raise PreemptedError(signal.Signals(number).name)


def agree_on(stop: StopRequest) -> StopRequest:
    """The stop request that a run of one or of several processes looks at."""
    return stop if jax.process_count() == 1 else AgreedStop(stop)


_FAILED = "wlsrl/failed"  # key of the process that failed first, its status and reason


def tell_others(status: int, reason: str) -> None:
    """Lets the other processes end with the status of this one, which failed alone.

    A launcher often sees only one status of all, and "the other one was lost" would hide a
    mistake that a new start cannot mend.
    """
    if jax.process_count() == 1:
        return
    failed = json.dumps([jax.process_index(), status, reason])
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # another one was first
        _key_value_store().key_value_set(_FAILED, failed)
    time.sleep(2 * BEAT_SECONDS)  # they look once a beat


def _key_value_store() -> Any:
    from jax._src import distributed  # no public way to it

    return distributed.global_state.client


class _Watch:
    """Ends this process when another one has failed or gives no sign of life.

    JAX ends it too, at once if process 0 dies, with a message and status of its own, and after
    100 s if another one does not answer.
    """

    def __init__(self) -> None:
        self._client = _key_value_store()
        now = time.monotonic()
        self._heard = {p: now for p in range(jax.process_count()) if p != jax.process_index()}

    def start(self) -> None:
        # Two threads: a call to a process 0 that does not answer does not come back.
        for loop in (self._exchange, self._judge):
            threading.Thread(target=loop, daemon=True).start()

    def _exchange(self) -> None:
        last: dict[int, str] = {}
        for beat in itertools.count():
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # then the clock runs
                mine = f"wlsrl/beat/{jax.process_index()}"
                self._client.key_value_set(mine, str(beat), allow_overwrite=True)
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # nobody has failed
                who, status, reason = json.loads(self._client.key_value_try_get(_FAILED))
                if who != jax.process_index():
                    _end(status, f"process {who} has failed: {reason}")
            for p in self._heard:
                with contextlib.suppress(jax.errors.JaxRuntimeError):
                    seen = self._client.key_value_try_get(f"wlsrl/beat/{p}")
                    if seen != last.get(p):
                        last[p], self._heard[p] = seen, time.monotonic()
            time.sleep(BEAT_SECONDS)

    def _judge(self) -> None:
        while True:
            time.sleep(BEAT_SECONDS)
            for p, since in self._heard.items():
                silent = time.monotonic() - since
                if silent > LOST_SECONDS:
                    leave(f"process {p} has given no sign of life for {silent:.0f} s")


_LOST = ("Gloo", "NCCL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "Barrier", "coordination service",
         "Connection reset", "Connection closed", "Socket closed")  # fmt: skip


def is_lost(error: BaseException | None) -> bool:
    """Whether an error of this process comes from the loss of another one."""
    if jax.process_count() == 1:
        return False
    while error is not None:
        if any(word in str(error) for word in _LOST):
            return True
        error = error.__cause__ or error.__context__
    return False


def finish(status: int) -> None:
    """Ends a process of several together with the others; does nothing for one alone."""
    if not jax.distributed.is_initialized():
        return
    jax.distributed.shutdown()  # waits for the others
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # the watch may be in a call that does not outlive the interpreter


def leave(reason: str) -> NoReturn:
    """Ends this process at once: what it would wait for will not come."""
    _leave(_this_process(), reason)


def _this_process() -> str:
    return f"process {jax.process_index()} of {jax.process_count()}"


def _leave(who: str, reason: str) -> NoReturn:
    _end(
        EXIT_LOST_PROCESS,
        f"{reason}; start the run again with the same command, it goes on from its last checkpoint",
        who,
    )


def _end(status: int, reason: str, who: str | None = None) -> NoReturn:
    print(f"{who or _this_process()}: {reason}", file=sys.stderr, flush=True)
    os._exit(status)
