r"""S4D: a bank of diagonal state-space models as one long convolution.

Channel h of a sequence u_l obeys z_l = dA z_{l-1} + dB u_l, y_l = 2 Re(C z_l) + D u_l with N/2 complex modes (their
conjugates are implied), that is y = K * u + D u with the kernel

    K_l = 2 Re sum_n C_n dB_n dA_n^l,      A_n = -exp(a_n) + i omega_n,      dt = exp(log_dt),

ZOH: dA = e^{dt A}, dB = (dA - 1)/A; bilinear: dA = (1 + dt A/2)/(1 - dt A/2), dB = dt/(1 - dt A/2).

The powers are products dA^{qR + r} = dA^{qR} dA^r with R ~ sqrt(L), so that a kernel costs O(N sqrt(L)) exponentials
and one matrix product instead of O(N L) exponentials. All of it is real arithmetic, which compilers understand.

References: Gu et al. 2022, "On the Parameterization and Initialization of Diagonal State Space Models", sections 3-4.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from scidiff.configurable import Configurable

__all__ = ["INITIALIZATIONS", "S4D", "initial_frequencies"]

INITIALIZATIONS = ("lin", "inv", "legs")
_INITIAL_DECAY = math.log(0.5)
_DENSE_LENGTH = 128  # up to here a matrix product is faster than a Fourier transform (measured on a CPU)


class S4D(Configurable, nn.Module):
    """Linear state-space layer along the time axis: (B, L, width) to (B, L, width), any length L.

    Time O(B L^2 width) by a dense matrix or O(B L log L width) by Fourier transform. Kernels are computed in the dtype
    of the parameters (keep them in float32) and the input is cast to it. In evaluation mode, where no parameter needs a
    gradient, what depends on the parameters alone is kept from call to call.

    Args:
        width: Number of channels H, each with its own state.
        state_size: State size N, even: N/2 complex modes a channel.
        init: Frequencies: ``"lin"`` pi n, ``"inv"`` (N/pi)(N/(2n + 1) - 1), ``"legs"`` those of the normal part of
            HiPPO-LegS.
        discretization: ``"zoh"`` or ``"bilinear"``.
        bidirectional: Add a kernel that looks ahead: y_l = sum_{v <= l} K0_{l-v} u_v + sum_{v > l} K1_{v-l-1} u_v
            + D u_l.
        dt_min: Smallest initial step; log dt is uniform.
        dt_max: Largest initial step.
        method: ``"dense"``, ``"fft"``, or ``"auto"``, which takes the former for short sequences.

    Raises:
        ValueError: If ``state_size`` is odd or not positive, the steps are out of order, or a name is unknown.
    """

    def __init__(
        self,
        width: int,
        state_size: int = 64,
        *,
        init: Literal["lin", "inv", "legs"] = "lin",
        discretization: Literal["zoh", "bilinear"] = "zoh",
        bidirectional: bool = True,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        method: Literal["auto", "dense", "fft"] = "auto",
    ) -> None:
        super().__init__()
        if state_size < 2 or state_size % 2:
            raise ValueError(f"state_size must be even and positive (modes come in pairs), got {state_size}.")
        if not 0 < dt_min <= dt_max:
            raise ValueError(f"expected 0 < dt_min <= dt_max, got {dt_min} and {dt_max}.")
        if discretization not in ("zoh", "bilinear") or method not in ("auto", "dense", "fft"):
            raise ValueError(
                f"expected discretization 'zoh' or 'bilinear' and method 'auto', 'dense' or 'fft', got "
                f"{discretization!r} and {method!r}."
            )
        initial_frequencies(init, 2)
        self.width, self.state_size, self.init = width, state_size, init
        self.discretization, self.bidirectional, self.method = discretization, bidirectional, method
        self.dt_min, self.dt_max = dt_min, dt_max
        modes, directions = state_size // 2, 2 if bidirectional else 1
        self.log_dt = nn.Parameter(torch.empty(width))
        self.log_decay = nn.Parameter(torch.empty(width, modes))
        self.frequency = nn.Parameter(torch.empty(width, modes))
        self.C = nn.Parameter(torch.empty(directions, width, modes, 2))
        self.D = nn.Parameter(torch.empty(width))
        self._kept: tuple[Any, Tensor] | None = None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw log dt uniformly, C with E|C|^2 = 1, D ~ N(0, 1); set A to the initialisation."""
        with torch.no_grad():
            self.log_dt.uniform_(math.log(self.dt_min), math.log(self.dt_max))
            self.log_decay.fill_(_INITIAL_DECAY)
            self.frequency.copy_(initial_frequencies(self.init, self.state_size).expand_as(self.frequency))
            self.C.normal_(std=0.5**0.5)
            self.D.normal_()

    def forward(self, u: Tensor) -> Tensor:
        """Convolve ``u`` (B, L, width)."""
        x, length = u.to(self.D.dtype), u.shape[1]
        if self.method == "dense" or (self.method == "auto" and length <= _DENSE_LENGTH):
            y = (self._constant("dense", length) @ x.permute(2, 1, 0)).permute(2, 1, 0)
        else:
            x = x.transpose(1, 2)
            spectrum = torch.fft.rfft(x, 2 * length) * self._constant("fft", length)
            y = torch.fft.irfft(spectrum, 2 * length)[..., :length].transpose(1, 2)
        return y.contiguous().to(u.dtype)  # elementwise gradients of mixed layouts are ten times slower

    def kernels(self, length: int) -> Tensor:
        """Kernels K0, K1 at lags 0 ... length - 1, (directions, width, length); K1_l is the weight of lag -(l + 1)."""
        modes = self._modes()
        c_re, c_im = self.C.unbind(-1)
        w_re = c_re * modes.b_re - c_im * modes.b_im
        w_im = c_re * modes.b_im + c_im * modes.b_re
        inner = math.isqrt(max(length - 1, 0)) + 1
        outer = -(-length // inner)
        steps = torch.arange(max(inner, outer), device=self.D.device, dtype=self.D.dtype)
        fine_re, fine_im = _powers(modes, steps[:inner])
        coarse_re, coarse_im = _powers(modes, inner * steps[:outer])
        w_re, w_im = w_re[..., None], w_im[..., None]
        left = torch.cat([w_re * coarse_re - w_im * coarse_im, -(w_re * coarse_im + w_im * coarse_re)], dim=2)
        right = torch.cat([fine_re, fine_im], dim=1)
        return 2 * (left.mT @ right).flatten(2)[..., :length]

    def matrix(self, length: int) -> Tensor:
        """The layer as matrices T (width, length, length): y_u = sum_v T_uv u_v, D included."""
        kernels = self.kernels(length)
        ahead = kernels[1, :, : length - 1] if self.bidirectional else torch.zeros_like(kernels[0, :, : length - 1])
        present = kernels[0, :, :1] + self.D[:, None]
        falling = torch.cat([kernels[0, :, 1:].flip(-1), present, ahead], dim=-1)  # lags length - 1 ... 1 - length
        return falling.unfold(-1, length, 1).flip(1)

    def spectrum(self, length: int) -> Tensor:
        """Fourier transform (width, length + 1) of the two-sided kernel, period 2 ``length``, D included."""
        kernels = self.kernels(length)
        present = kernels[0, :, :1] + self.D[:, None]
        ahead = kernels[1].flip(-1) if self.bidirectional else torch.zeros_like(kernels[0])
        return torch.fft.rfft(torch.cat([present, kernels[0, :, 1:], ahead], dim=-1))

    def train(self, mode: bool = True) -> S4D:
        """Set the mode; what was kept for evaluation is dropped."""
        self._kept = None
        return super().train(mode)

    def _constant(self, kind: str, length: int) -> Tensor:
        """`matrix` or `spectrum`, kept between calls where no gradient of a parameter can be asked for."""
        compute = self.matrix if kind == "dense" else self.spectrum
        parameters = (self.log_dt, self.log_decay, self.frequency, self.C, self.D)
        needs_grad = torch.is_grad_enabled() and any(p.requires_grad for p in parameters)
        if self.training or needs_grad or torch.compiler.is_compiling():
            return compute(length)
        key = (kind, length, *((p._version, p.data_ptr(), p.dtype, p.device) for p in parameters))
        if self._kept is None or self._kept[0] != key:
            with torch.inference_mode(False), torch.no_grad():
                self._kept = (key, compute(length))
        return self._kept[1]

    def _modes(self) -> _Modes:
        dt = self.log_dt.exp()[:, None]
        decay = -self.log_decay.exp()
        x, y = dt * decay, dt * self.frequency  # dt A
        if self.discretization == "zoh":
            half = torch.sin(y / 2)
            numerator_re = torch.expm1(x) * torch.cos(y) - 2 * half * half
            numerator_im = x.exp() * torch.sin(y)
            size = decay**2 + self.frequency**2
            b_re = (numerator_re * decay + numerator_im * self.frequency) / size
            b_im = (numerator_im * decay - numerator_re * self.frequency) / size
            return _Modes(x, y, b_re, b_im)
        real, imaginary = 1 - x / 2, -y / 2  # 1 - dt A/2
        size = real**2 + imaginary**2
        log_modulus = 0.5 * torch.log1p(2 * x / size)
        angle = torch.atan2(y / 2, 1 + x / 2) + torch.atan2(y / 2, real)
        return _Modes(log_modulus, angle, dt * real / size, -dt * imaginary / size)


class _Modes(NamedTuple):
    """log |dA|, arg dA and dB, each (width, modes)."""

    log_modulus: Tensor
    angle: Tensor
    b_re: Tensor
    b_im: Tensor


def _powers(modes: _Modes, exponents: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary part (width, modes, n) of dA to the powers ``exponents`` (n,)."""
    modulus = (modes.log_modulus[..., None] * exponents).exp()
    angle = modes.angle[..., None] * exponents
    return modulus * angle.cos(), modulus * angle.sin()


def initial_frequencies(init: str, state_size: int) -> Tensor:
    """Imaginary parts (N/2,) of A, float64, all positive or zero.

    Raises:
        ValueError: If the name is unknown.
    """
    if init not in INITIALIZATIONS:
        raise ValueError(f"unknown S4D initialisation {init!r}; known: {', '.join(INITIALIZATIONS)}.")
    n = torch.arange(state_size // 2, dtype=torch.float64)
    if init == "lin":
        return math.pi * n
    if init == "inv":
        return state_size / math.pi * (state_size / (2 * n + 1) - 1)
    odd = 2 * torch.arange(state_size, dtype=torch.float64) + 1
    lower = -0.5 * torch.outer(odd.sqrt(), odd.sqrt()).tril(-1)
    values = torch.linalg.eigvalsh((-1j) * (lower - lower.T).to(torch.complex128))  # i times a skew matrix
    return values[state_size // 2 :]
