"""`GraphGenerator`: a trained model, ready to draw graphs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any, Literal

import networkx as nx
import numpy as np
import torch
from torch import Tensor

from graphs.data.graph_set import GraphSet, joined
from graphs.data.spec import GraphSpec
from graphs.graph_list import GraphList
from graphs.known import known_part
from graphs.networks.gdss import GDSSNetwork
from graphs.path import DenoisingPath, PathRecorder
from graphs.postprocess import keep_largest_component
from graphs.processes import decode_gdss, decode_state, encode_gdss, encode_state
from scidiff import random
from scidiff.checkpoint import Pretrained
from scidiff.denoiser import Denoiser
from scidiff.guidance import ClassifierFree, Observation, Replace
from scidiff.progress import Bar
from scidiff.samplers import get_solver, sample

__all__ = ["GraphGenerator"]

_SIZE_STREAM = random.stream_id("num_nodes")
_LAST_TIME = 1e-4  # of the grid "linear", as GDSS


class GraphGenerator(Pretrained):
    """Draws graphs with the attributes of the training data.

    Args:
        denoiser: Trained denoiser of `GraphDiffusion` or `GDSSDiffusion`; or such a trained module, whose weights (the
            averaged ones, if it samples with them) and sampling settings are then used.
        spec: Vocabulary and sizes of the training data; from the module if that is given.
        sampling: Defaults of `sample`: ``steps``, ``solver``, ``solver_options``, ``grid``.

    Raises:
        ValueError: If ``spec`` is missing or is not that of the denoiser, or a default is out of range.

    Example:
        >>> new = GraphGenerator.from_pretrained("community_small").sample(20, seed=0)
        >>> new[0].number_of_nodes(), new.to_pyg()
    """

    def __init__(
        self, denoiser: Denoiser | Any, spec: GraphSpec | None = None, sampling: Mapping[str, Any] | None = None
    ) -> None:
        if not isinstance(denoiser, Denoiser):
            denoiser, spec, sampling = _trained(denoiser, sampling)
            self._remember(denoiser=denoiser, spec=spec, sampling=sampling)
        if spec is None:
            raise ValueError("a GraphGenerator needs the GraphSpec of its training data beside the denoiser.")
        self.denoiser = denoiser.eval()
        self.spec = spec
        self.sampling = {"steps": 63, "solver": "ddim", "solver_options": {}, "grid": "quadratic", **(sampling or {})}
        unknown = set(self.sampling) - {"steps", "solver", "solver_options", "grid"}
        if unknown:
            raise ValueError(f"sampling has the keys steps, solver, solver_options and grid, got {sorted(unknown)}.")
        self.is_gdss = isinstance(denoiser.network, GDSSNetwork)
        _check_counts(steps=self.sampling["steps"])
        get_solver(self.sampling["solver"])
        _check_fit(denoiser, spec)

    @classmethod
    def fit(
        cls,
        data: Any,
        *,
        preset: Literal["small", "large"] = "small",
        max_minutes: float = 5.0,
        seed: int = 0,
        progress: bool = False,
        **options: Any,
    ) -> GraphGenerator:
        """Train a `GraphDiffusion` and return its generator.

        Args:
            data: A `GraphDataModule`, or graphs: a list of networkx graphs or PyG ``Data``, a name, a path.
            preset: ``"small"`` for graphs of some 20 nodes on a CPU, ``"large"`` for a GPU.
            max_minutes: Length of the training.
            seed: Seed of weights, batches and noise.
            progress: Show a bar.
            options: Arguments of `GraphDiffusion`, for example ``network`` or ``lr``.

        Raises:
            ValueError: If the data cannot be represented or an option is out of range.
        """
        from graphs.fitting import fit

        return cls(fit(data, preset=preset, max_minutes=max_minutes, seed=seed, progress=progress, **options))

    def sample(
        self,
        n: int,
        *,
        num_nodes: int | Sequence[int] | None = None,
        label: Any = None,
        guidance_scale: float = 1.0,
        fixed: nx.Graph | None = None,
        known: Literal["induced", "edges", "nodes"] = "induced",
        resample: int = 1,
        keep: Literal["all", "largest_component"] = "all",
        steps: int | None = None,
        solver: Any = None,
        solver_options: Mapping[str, Any] | None = None,
        grid: str | Tensor | None = None,
        guidance: Any = None,
        seed: random.Seeds = 0,
        device: str | torch.device | None = None,
        batch_size: int = 250,
        progress: bool | Callable[[], None] = False,
        path: bool = False,
    ) -> GraphList:
        """Draw ``n`` graphs.

        Args:
            n: How many.
            num_nodes: Number of nodes: one for all, one per graph, or None for the sizes of the training data.
            label: Graph label of the training data (its value) to condition on: one for all, or a list of ``n``.
            guidance_scale: Strength of classifier-free guidance; 1 is the conditional model. Doubles the evaluations.
            fixed: Known part: a graph whose nodes become the first ones of every sample.
            known: What ``fixed`` says: every pair of its nodes (``"induced"``), its edges (``"edges"``), or its node
                attributes only (``"nodes"``).
            resample: Passes over each stretch of steps for a known part (RePaint); more fit the rest better to it.
            keep: ``"largest_component"`` leaves the other components out.
            steps: Solver steps. ``nfe`` of the result counts the evaluations.
            solver: Name or object, see `scidiff.samplers.solver_names`; discrete components move by their posterior
                between the same times.
            solver_options: Options of the solver.
            grid: Name of a time grid, ``"linear"`` (1 to 1e-4, as GDSS), or a tensor of times.
            guidance: Further guidance objects of the core.
            seed: An int, or one per graph; a graph depends on its own seed only, not on ``batch_size``.
            device: Where to compute; default: where the weights are.
            batch_size: Graphs at a time.
            progress: Show a bar; or a function, called after each step.
            path: Keep what the model takes the clean graphs to be at every step, for `GraphList.film`; takes memory for
                ``n`` matrices a step.

        Returns:
            The graphs in order.

        Raises:
            ValueError: If a number is out of range, or a name, label or attribute is unknown.
        """
        settings = self._settings(steps, solver, solver_options, grid)
        _check_counts(n=n, batch_size=batch_size, steps=settings["steps"])
        if keep not in ("all", "largest_component"):
            raise ValueError(f"keep must be 'all' or 'largest_component', got {keep!r}.")
        if device is not None:
            self.denoiser.to(device)
        seeds = random.seed_pairs(seed, n)
        sizes = self._sizes(n, num_nodes, random.seed_table(seeds, n), 0 if fixed is None else len(fixed))
        labels = self._labels(label, n)
        order = np.argsort(sizes, kind="stable")
        chunks = [order[start : start + batch_size] for start in range(0, n, batch_size)]
        parts, paths, nfe = [], [], 0
        with Bar(len(chunks) * settings["steps"], progress) as bar:
            for chunk in chunks:
                own = None if labels is None else labels[chunk]
                guides = self._guides(own, guidance_scale, fixed, known, resample, int(sizes[chunk].max()), guidance)
                recorder = PathRecorder(self.denoiser.process, self.spec.num_edge_classes, self.is_gdss)
                watch = _watch(bar, recorder if path else None)
                state, nfe = self._draw(sizes[chunk], [seeds[k] for k in chunk], own, settings, guides, watch)
                parts.append(self._graphs(state, sizes[chunk], own))
                if path:
                    recorder.add(state, is_sample=True)
                    paths.append(recorder.path(sizes[chunk], self.spec.attributes))
        back = np.argsort(order)
        graphs = joined(parts).subset(back)
        graphs = keep_largest_component(graphs) if keep == "largest_component" else graphs
        return GraphList(graphs, seeds, nfe, DenoisingPath.joined(paths, back) if path else None)

    def _settings(self, steps: int | None, solver: Any, options: Mapping[str, Any] | None, grid: Any) -> dict[str, Any]:
        """Options of the core's `sample`; those of the default solver go with it."""
        default = self.sampling
        chosen = default["solver"] if solver is None else solver
        own = default["solver_options"] if solver is None else {}
        steps = default["steps"] if steps is None else steps
        grid = default["grid"] if grid is None else grid
        if isinstance(grid, str) and grid == "linear":
            _check_counts(steps=steps)
            grid = torch.linspace(1, _LAST_TIME, steps + 1, dtype=torch.float64)
        final = {"final_denoise": not self.is_gdss}
        return {"steps": steps, "solver": chosen, "solver_options": {**final, **own, **(options or {})}, "grid": grid}

    def _sizes(self, n: int, num_nodes: int | Sequence[int] | None, keys: Tensor, least: int) -> np.ndarray:
        if num_nodes is None:
            known = np.array([size for size in sorted(self.spec.sizes) if size >= least])
            if not len(known):
                raise ValueError(
                    f"the known part has {least} nodes, the largest graph of the data {self.spec.max_nodes}."
                )
            share = np.cumsum([self.spec.sizes[int(k)] for k in known], dtype=np.float64)
            u = random.uniform(keys, _SIZE_STREAM, 0, 1)[:, 0].numpy()
            return known[np.searchsorted(share / share[-1], u)]
        sizes = np.full(n, int(num_nodes)) if isinstance(num_nodes, Integral) else np.asarray(num_nodes)
        if sizes.shape != (n,) or sizes.dtype.kind not in "iu" or sizes.min() < max(1, least):
            raise ValueError(
                f"num_nodes must be an integer of at least {max(1, least)}, or one for each of the {n} graphs, got "
                f"{num_nodes}."
            )
        return sizes

    def _labels(self, label: Any, n: int) -> Tensor | None:
        """Classes (n,) of the labels; None without a condition."""
        if label is None:
            return None
        known = list(self.spec.attributes.graph_classes)
        values = list(label) if isinstance(label, list | tuple | np.ndarray) else [label] * n
        wrong = [value for value in values if value not in known]
        if not known or wrong or len(values) != n:
            raise ValueError(
                f"label must be one of the labels of the data ({', '.join(map(str, known)) or 'it has none'}), or "
                f" a list of {n}, got {label!r}."
            )
        return torch.tensor([known.index(value) for value in values])

    def _guides(
        self,
        labels: Tensor | None,
        scale: float,
        fixed: nx.Graph | None,
        known: Any,
        resample: int,
        size: int,
        guidance: Any,
    ) -> list[Any]:
        guides = [] if guidance is None else list(guidance) if isinstance(guidance, list | tuple) else [guidance]
        if scale != 1.0:
            if labels is None:
                raise ValueError("guidance_scale needs a label to guide to: pass label=.")
            guides.append(ClassifierFree(scale, keys=["label"]))
        if fixed is not None:
            values, masks = known_part(fixed, self.spec, size, known)
            state = self._encoded({**values, "node_mask": torch.ones(1, size, dtype=torch.bool)})
            device = next(self.denoiser.parameters()).device
            seen = [name for name in state if name in masks and bool(masks[name].any())]
            observations = [
                Observation(masks[name].to(device), y=state[name].to(device), component=name) for name in seen
            ]
            if observations:
                guides.append(Replace(observations, resample))
        return guides

    def _encoded(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        process = self.denoiser.process
        if self.is_gdss:
            return encode_gdss(values, self.denoiser.network.num_features)
        return encode_state(values, self.spec, process)

    def _draw(
        self,
        sizes: np.ndarray,
        seeds: list[tuple[int, int]],
        labels: Tensor | None,
        settings: Mapping[str, Any],
        guides: list[Any],
        callback: Callable[[Any], None],
    ) -> tuple[dict[str, Tensor], int]:
        """State of one padded batch, and the number of evaluations it took."""
        b, n = len(sizes), int(sizes.max())
        device = next(self.denoiser.parameters()).device
        mask = torch.arange(n, device=device) < torch.as_tensor(sizes, device=device)[:, None]
        cond: dict[str, Any] = {"node_mask": mask}
        if labels is not None:
            cond["label"] = labels.to(device)
        example = self._encoded(
            {
                "adj": torch.zeros(1, n, n, dtype=torch.int64),
                "x": torch.zeros(1, n, dtype=torch.int64),
                "features": torch.zeros(1, n, len(self.spec.feature_mean)),
                "edge_features": torch.zeros(1, n, n, len(self.spec.edge_feature_mean)),
                "node_mask": torch.ones(1, n, dtype=torch.bool),
            }
        )
        shapes = {name: (b, *value.shape[1:]) for name, value in example.items()}
        state, info = sample(
            self.denoiser, shapes, seed=seeds, cond=cond, guidance=guides, save="none", callback=callback, **settings
        )
        return state, info.nfe

    def _graphs(self, state: dict[str, Tensor], sizes: np.ndarray, labels: Tensor | None) -> GraphSet:
        """Sampled states as graphs."""
        if self.is_gdss:
            decoded, sizes = decode_gdss(state, self.spec, sizes)
        else:
            decoded = decode_state(state)
        arrays = {name: value.cpu().numpy() for name, value in decoded.items()}
        return self.spec.unpad(num_nodes=sizes, label=None if labels is None else labels.numpy(), **arrays)


def _watch(bar: Bar, recorder: PathRecorder | None) -> Callable[[Any], None]:
    """What is done after every step."""

    def watch(info: Any) -> None:
        bar.advance()
        if recorder is not None:
            recorder(info)

    return watch


def _trained(module: Any, sampling: Mapping[str, Any] | None) -> tuple[Denoiser, GraphSpec, Mapping[str, Any]]:
    """A copy of the denoiser of a trained module with the weights it samples with, and its sampling settings."""
    if getattr(module, "spec", None) is None:
        raise ValueError("the module has not seen any data yet: fit it, or build it with spec=.")
    with module.sampling_weights():
        denoiser = Denoiser.from_config(module.denoiser.to_config())
        denoiser.load_state_dict(module.denoiser.state_dict())
    return denoiser, module.spec, {**module.sampling, **(sampling or {})}


def _check_fit(denoiser: Denoiser, spec: GraphSpec) -> None:
    """The classes of the denoiser must be those of the spec, else graphs would be read with a wrong vocabulary."""
    process = denoiser.process
    wanted = {"adj": spec.num_edge_classes, "x": len(spec.node_marginal)}
    given = {name: component.num_classes for name, component in process.discrete.items()}
    if "adj" not in process.components or any(given[name] != wanted[name] for name in given):
        raise ValueError(
            f"the denoiser must have a component adj and the classes of the spec {wanted}, got the components "
            f"{', '.join(process.components)} with {given}. Was the spec made from other data?"
        )


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if not isinstance(count, Integral) or count < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {count!r}.")
