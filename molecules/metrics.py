"""Metrics of generated molecules, the public names.

`evaluate` gives the whole report; the functions behind it stand in `molecules.stability`, `molecules.validity`,
`molecules.distributions`, `molecules.descriptors`, `molecules.energy`, `molecules.geometry_mmd`,
`molecules.pb_lite` and `molecules.similarity`.
"""

from molecules.assessment import PROTOCOLS, evaluate
from molecules.descriptors import DESCRIPTORS, descriptor_means, descriptor_table, frechet_descriptor_distance
from molecules.distributions import SetStatistics, collect, compare, total_variation, wasserstein
from molecules.energy import Strain, mmff_strain, strain_summary
from molecules.geometry_mmd import gaussian_mmd, geometry_mmd, internal_coordinates
from molecules.pb_lite import PB_TESTS, pb_lite, pb_lite_summary
from molecules.report import Figure, Report, wilson_interval
from molecules.similarity import internal_diversity, kl_divergence, kl_score, nearest_similarities
from molecules.stability import (
    CORRECTED_TABLES,
    Stability,
    corrected_stability,
    edm_bond_orders,
    edm_stability,
    legacy_stability,
    set_stability,
)
from molecules.validity import (
    LegacyValidity,
    SetValidity,
    canonical_set,
    edm_validity,
    legacy_set_validity,
    legacy_validity,
    set_validity,
)

__all__ = [
    "CORRECTED_TABLES",
    "DESCRIPTORS",
    "PB_TESTS",
    "PROTOCOLS",
    "Figure",
    "LegacyValidity",
    "Report",
    "SetStatistics",
    "SetValidity",
    "Stability",
    "Strain",
    "canonical_set",
    "collect",
    "compare",
    "corrected_stability",
    "descriptor_means",
    "descriptor_table",
    "edm_bond_orders",
    "edm_stability",
    "edm_validity",
    "evaluate",
    "frechet_descriptor_distance",
    "gaussian_mmd",
    "geometry_mmd",
    "internal_coordinates",
    "internal_diversity",
    "kl_divergence",
    "kl_score",
    "legacy_set_validity",
    "legacy_stability",
    "legacy_validity",
    "mmff_strain",
    "nearest_similarities",
    "pb_lite",
    "pb_lite_summary",
    "set_stability",
    "set_validity",
    "strain_summary",
    "total_variation",
    "wasserstein",
    "wilson_interval",
]
