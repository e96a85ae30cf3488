"""Networks that denoise windows of time series."""

from timeseries.networks.mlp import WindowMLP
from timeseries.networks.s4 import S4Backbone

__all__ = ["S4Backbone", "WindowMLP"]
