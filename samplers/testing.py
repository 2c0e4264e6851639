r"""What samplers are tested by: exact laws, calibration, and the promises of an integrator."""

from .calibration import Calibration, sbc
from .checks import check_sampler
from .law import affine_law, diffused

__all__ = ["Calibration", "affine_law", "check_sampler", "diffused", "sbc"]
