"""`GraphDiffusion`, the default model, and `GDSSDiffusion`, the published baseline, as Lightning modules."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor

from graphs.data.spec import GraphSpec
from graphs.networks.edge_transformer import EdgeTransformer
from graphs.networks.gdss import GDSSNetwork
from graphs.processes import encode_gdss, encode_state, gdss_prediction, gdss_process, graph_process
from scidiff import random
from scidiff.configurable import build
from scidiff.denoiser import Denoiser
from scidiff.losses import DenoisingLoss, TimeLaw
from scidiff.schedules import Schedule
from scidiff.training import CONFIG_KEY, DiffusionModule, StepLoss

__all__ = ["LOSS_WEIGHTS", "GDSSDiffusion", "GraphDiffusion"]

LOSS_WEIGHTS = {"adj": 1.0, "x": 0.2, "features": 0.2, "edge_features": 0.2}


class _SpecModule(DiffusionModule):
    """What both models share: network and process follow from the `GraphSpec` of the data."""

    def _start(self, network: Any, spec: GraphSpec | None, sampling: Mapping[str, Any] | None) -> None:
        self.sampling = dict(sampling or {})
        self._template: dict[str, Any] = network.to_config()
        self.spec: GraphSpec | None = None
        if spec is not None:
            self._adopt(spec)

    def configure_model(self) -> None:
        """Take the vocabulary from the data module, once; later data must have the same one."""
        spec = getattr(getattr(self.trainer, "datamodule", None), "spec", None)
        if self.spec is None:
            if not isinstance(spec, GraphSpec):
                raise ValueError("no vocabulary: fit with a GraphDataModule, or build the module with spec=.")
            self._adopt(spec)
        elif isinstance(spec, GraphSpec):
            self._check(spec)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights of another vocabulary, whose classes would silently change their meaning."""
        config = json.loads(checkpoint.get(CONFIG_KEY, "{}")).get("init_args", {}).get("spec")
        if config is not None and self.spec is not None:
            self._check(build(config))

    def sampling_weights(self) -> AbstractContextManager[None]:
        """The weights that sample, inside the ``with`` block: the averaged ones."""
        return self.averaged()

    def _check(self, other: GraphSpec) -> None:
        assert self.spec is not None
        if other.attributes != self.spec.attributes:
            raise ValueError(
                f"the model was built for {self.spec}, but the data is {other}: the attributes of nodes, edges and "
                "graphs must be the same. Take the data of the model, or train a new one."
            )

    def _adopt(self, spec: GraphSpec) -> None:
        raise NotImplementedError

    def _network(self, **sizes: Any) -> Any:
        """The network of the template with the sizes of the data and new weights."""
        return build({**self._template, "init_args": {**self._template["init_args"], **sizes}})


class GraphDiffusion(_SpecModule):
    """Generative model of graphs that predicts the clean graph.

    The state has the components of the data: ``adj`` (edge classes, 0 = no edge), ``x`` (node classes), ``features``
    and ``edge_features`` (real numbers). In the discrete formulation a class stays with probability 1 - t and is else
    drawn from the shares of the training set; in the continuous one classes are numbers in {-1, +1} under Gaussian
    noise. Real features are Gaussian in both. Classes are learnt by cross entropy (discrete) or squared error, each
    unordered pair once.

    Args:
        network: Only its arguments are used: the sizes come from the data, and weights start anew. `EdgeTransformer` by
            default.
        spec: Vocabulary and statistics; taken from the data module when training starts, if absent.
        formulation: ``"discrete"`` or ``"continuous"``.
        schedule: Keep probability of classes (discrete, default `Linear`) or schedule of all components (continuous,
            default `Cosine`).
        loss_weights: Weight of each component; default ``LOSS_WEIGHTS``.
        self_conditioning: Probability of a training step with the network's own earlier prediction as input; 0 turns
            self-conditioning off.
        label_dropout: Probability that a graph is shown without its label, for classifier-free guidance.
        time_law: Distribution of the training time, uniform by default.
        lr: Peak learning rate.
        warmup_steps: Steps of the linear warm-up.
        lr_end: Final learning rate as a fraction of ``lr``.
        weight_decay: Decoupled weight decay.
        ema: Decay of the weight average; None for none.
        sampling: Defaults of `GraphGenerator.sample`: ``steps``, ``solver``, ``solver_options``, ``grid``.
        noise_seed: Seed of training and validation noise.
        compile: Run the network through ``torch.compile`` in training.

    Raises:
        ValueError: If an argument is outside its range; when training starts, if the data has another vocabulary.

    References: Vignac et al. 2023 (DiGress), section 3 (marginal noise, clean-graph prediction); Austin et al. 2021
    (D3PM); Chen et al. 2023, "Analog Bits" (self-conditioning); Ho and Salimans 2022 (dropout of the condition).
    """

    def __init__(
        self,
        network: EdgeTransformer | None = None,
        *,
        spec: GraphSpec | None = None,
        formulation: Literal["discrete", "continuous"] = "discrete",
        schedule: Schedule | None = None,
        loss_weights: Mapping[str, float] | None = None,
        self_conditioning: float = 0.5,
        label_dropout: float = 0.1,
        time_law: TimeLaw | None = None,
        lr: float = 2e-3,
        warmup_steps: int = 100,
        lr_end: float = 0.01,
        weight_decay: float = 1e-4,
        ema: float | None = 0.999,
        sampling: Mapping[str, Any] | None = None,
        noise_seed: int = 0,
        compile: bool = False,
    ) -> None:
        weights = {**LOSS_WEIGHTS, **(loss_weights or {})}
        super().__init__(
            loss=DenoisingLoss(weights),
            time_law=time_law,
            lr=lr,
            warmup_steps=warmup_steps,
            lr_end=lr_end,
            weight_decay=weight_decay,
            ema=ema,
            noise_seed=noise_seed,
            compile=compile,
        )
        if set(weights) != set(LOSS_WEIGHTS):
            raise ValueError(f"loss_weights has the keys {sorted(LOSS_WEIGHTS)}, got {sorted(weights)}.")
        if not 0 <= self_conditioning <= 1 or not 0 <= label_dropout <= 1:
            raise ValueError(
                f"self_conditioning and label_dropout are probabilities, got {self_conditioning} and {label_dropout}."
            )
        if formulation not in ("discrete", "continuous"):
            raise ValueError(f"formulation must be 'discrete' or 'continuous', got {formulation!r}.")
        self.formulation: Literal["discrete", "continuous"] = formulation
        self.schedule = schedule
        self.self_conditioning, self.label_dropout = self_conditioning, label_dropout
        self._start(network if network is not None else EdgeTransformer(), spec, sampling)

    def prepare(self, batch: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], None, dict[str, Any]]:
        """State, no endpoint, and the node mask with the label if there is one."""
        cond = {name: batch[name] for name in ("node_mask", "label") if name in batch}
        assert self.spec is not None
        return encode_state(batch, self.spec, self.denoiser.process), None, cond

    def training_loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> StepLoss:
        """Loss per graph, optionally self-conditioned and without some labels."""
        state, _, cond = self.prepare(batch)
        t = self.sample_time(len(state["adj"]), generator)
        x_t, _ = self.denoiser.process.perturb(state, t, generator=generator, cond=cond)
        if "label" in cond:
            u = random.drawn(torch.rand, t.shape, generator=generator, device=t.device)
            cond["label"] = torch.where(u < self.label_dropout, -1, cond["label"])
        chance = torch.rand((), generator=generator, device=generator.device)
        if self.self_conditioning > 0 and bool(chance < self.self_conditioning):
            with torch.no_grad():
                cond = {**cond, "self_cond": self.denoiser(x_t, t, cond).x0}
        result = self.loss(self.denoiser, state, t, x_t=x_t, cond=cond)
        return StepLoss(result.total, result.parts, t)

    def _adopt(self, spec: GraphSpec) -> None:
        """Build network and process for ``spec``, and remember it as a constructor argument."""
        network = self._network(
            node_classes=len(spec.node_marginal),
            edge_classes=spec.num_edge_classes,
            node_values=len(spec.feature_mean),
            edge_values=len(spec.edge_feature_mean),
            num_labels=spec.num_labels,
            continuous=self.formulation == "continuous",
        )
        process = graph_process(spec, self.formulation, self.schedule)
        process.check()
        self.spec = spec
        self.denoiser = Denoiser(network, process, self_conditioning=self.self_conditioning > 0)
        self._remember(spec=spec, network=network)


class GDSSDiffusion(_SpecModule):
    """GDSS as published: one SDE for the node features and one for the adjacency matrix, two networks without time.

    Node features are one-hot degrees, or the one-hot node classes of typed graphs; adj holds the edge class as one
    number (0 and 1, or bond orders). Loss: half the squared error of the unit noise, summed over the entries of x and
    over both triangles of adj, t uniform in [1e-5, 1]. Adam with L2 weight decay for each network, gradients of each
    clipped by themselves, learning rate times ``gamma`` after every epoch.

    The published schedules do not reach their prior at t = 1, which is said once when training starts; sampling starts
    from the prior all the same, and the corrector has to make up for it. Where samplers depart from the published code:
    steps of "linear" are as long as the distances of its times (there: 1/N for times that are 0.9999/(N - 1) apart,
    which ends at t = -9e-4), and the norms of the corrector are those of each graph (``batch_norms`` of the solvers
    for those of the batch).

    Args:
        network: Only its arguments are used: the number of features comes from the data. `GDSSNetwork` by default.
        spec: Vocabulary and statistics; taken from the data module when training starts, if absent.
        schedule_x: Schedule of the node features; ``VPSDE(0.1, 1.0)`` by default.
        schedule_adj: Schedule of the adjacency matrix; ``VPSDE(0.1, 1.0)`` by default.
        lr: Initial learning rate.
        weight_decay: L2 penalty inside Adam.
        gamma: Factor of the learning rate after each epoch.
        clip: Largest gradient norm of each network.
        ema: Decay of the weight average; None for none.
        use_ema: Whether the averaged weights are those that sample; the published settings differ between data sets.
        sampling: Defaults of `GraphGenerator.sample`; 1,000 steps of Euler-Maruyama on the grid "linear" without more.
        noise_seed: Seed of training and validation noise.

    References: Jo, Lee and Hwang 2022 (GDSS), eq. 5-6 (losses) and appendix C (settings).
    """

    def __init__(
        self,
        network: GDSSNetwork | None = None,
        *,
        spec: GraphSpec | None = None,
        schedule_x: Schedule | None = None,
        schedule_adj: Schedule | None = None,
        lr: float = 1e-2,
        weight_decay: float = 1e-4,
        gamma: float = 0.999,
        clip: float = 1.0,
        ema: float | None = 0.999,
        use_ema: bool = False,
        sampling: Mapping[str, Any] | None = None,
        noise_seed: int = 0,
    ) -> None:
        super().__init__(
            time_law=TimeLaw(stratified=False), lr=lr, weight_decay=weight_decay, ema=ema, noise_seed=noise_seed
        )
        self.gamma, self.clip, self.use_ema = gamma, clip, use_ema
        self.schedule_x, self.schedule_adj = schedule_x, schedule_adj
        default = {"steps": 1000, "solver": "euler_maruyama", "grid": "linear"}
        self._start(network if network is not None else GDSSNetwork(), spec, {**default, **(sampling or {})})

    def sampling_weights(self) -> AbstractContextManager[None]:
        """The weights that sample, inside the ``with`` block: averaged or raw, as ``use_ema`` says."""
        return self.averaged() if self.use_ema else nullcontext()

    def prepare(self, batch: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], None, dict[str, Any]]:
        """One-hot node features, adjacency matrix, and the node mask."""
        state = encode_gdss(batch, self.denoiser.network.num_features)
        return state, None, {"node_mask": batch["node_mask"]}

    def training_loss(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> StepLoss:
        """Loss per graph: 1/2 sum (eps-hat - eps)^2 over x and over both triangles of adj."""
        state, _, cond = self.prepare(batch)
        t = self.sample_time(len(state["adj"]), generator)
        x_t, eps = self.denoiser.process.perturb(state, t, generator=generator, cond=cond)
        estimate = self.denoiser(x_t, t, cond).get("eps")
        assert isinstance(eps, dict)
        parts = {name: 0.5 * (estimate[name] - eps[name]).square().flatten(1).sum(1) for name in eps}
        return StepLoss(parts["x"] + parts["adj"], parts, t)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam with one group of weights a network; the rate falls after every epoch."""
        networks = (self.denoiser.network.node, self.denoiser.network.edge)
        groups = [{"params": list(network.parameters())} for network in networks]
        optimizer = torch.optim.Adam(groups, lr=self.lr, weight_decay=self.weight_decay)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, self.gamma)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "epoch"}}

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> None:
        """Clip each network by itself."""
        for group in optimizer.param_groups:
            torch.nn.utils.clip_grad_norm_(group["params"], self.clip)

    def _adopt(self, spec: GraphSpec) -> None:
        """Build networks and process for ``spec``, and remember it as a constructor argument."""
        if spec.feature_mean or spec.edge_feature_mean:
            raise ValueError("GDSS has no real node or edge features: leave them out with node_attributes=[].")
        network = self._network(num_features=len(spec.node_marginal) or spec.max_degree + 1)
        process = gdss_process(self.schedule_x, self.schedule_adj)
        process.check()
        self.spec = spec
        self.denoiser = Denoiser(network, process, prediction=gdss_prediction(process))
        self._remember(spec=spec, network=network)
