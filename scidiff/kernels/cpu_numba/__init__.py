"""CPU bodies in numba; these modules import numba, so they are themselves imported at the first use of a body."""
