"""Networks that denoise windows of time series."""

from timeseries.networks.mlp import WindowMLP
from timeseries.networks.s4 import S4Backbone
from timeseries.networks.wiener import WienerNetwork

__all__ = ["S4Backbone", "WienerNetwork", "WindowMLP"]
