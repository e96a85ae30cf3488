"""Errors on the reference mixture at 24 evaluations against recorded numbers.

Source: independent float64 implementations of each method, printed to two or three digits, so that half a unit of the
last digit is up to 4 %; 10 % is allowed.
"""

import pytest

from tests.scidiff.samplers.problems import mixture_error

RECORDED = [  # solver, options, log-SNR grid, quadratic grid, Karras grid
    ("ddim", {}, 0.122, 0.080, 0.130),
    ("heun", {}, 0.037, 0.0115, 0.059),
    ("edm_heun", {}, 0.093, 0.048, 0.105),
    ("dpm_solver_2", {}, 0.050, 0.019, None),
    ("dpm_solver_3", {}, 0.041, 0.0046, None),
    ("dpmpp_2s", {}, 0.049, 0.025, None),
    ("dpmpp_3s", {}, 0.021, 0.0049, None),
    ("dpmpp_2m", {}, 0.023, 0.018, 0.035),
    ("dpmpp_3m", {}, 0.013, 0.0074, 0.032),
    ("dpmpp_3m", {"legacy_third": True}, 0.0090, 0.0044, None),
    ("unipc_2", {}, 0.0089, 0.0050, 0.015),
    ("unipc_2", {"prediction": "eps"}, 0.0074, 0.0027, None),
    ("unipc_3", {}, 0.0080, 0.0015, None),
    ("unipc_3", {"prediction": "eps"}, 0.0061, 0.0016, 0.0094),
    ("deis_tab3", {}, 0.0065, 0.0023, 0.0087),
    ("deis_rhoab3", {}, 0.029, 0.017, 0.028),
]


@pytest.mark.parametrize(("solver", "options", "logsnr", "quadratic", "karras"), RECORDED)
def test_recorded_errors(solver, options, logsnr, quadratic, karras):
    for grid, recorded in (("logsnr", logsnr), ("quadratic", quadratic), ("karras", karras)):
        if recorded is not None:
            assert mixture_error(solver, options, grid, 24) == pytest.approx(recorded, rel=0.1), grid


def test_best_solver_beats_dpmpp_2m():
    """unipc_3 has at most 0.3 (log-SNR grid) and 0.1 (quadratic grid) of the error of dpmpp_2m at 24 evaluations."""
    best = mixture_error("unipc_3", {"prediction": "eps"}, "logsnr", 24)
    assert best <= 0.3 * mixture_error("dpmpp_2m", {}, "logsnr", 24)
    best = mixture_error("unipc_3", {}, "quadratic", 24)
    assert best <= 0.1 * mixture_error("dpmpp_2m", {}, "quadratic", 24)
