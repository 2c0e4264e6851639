r"""Priors, guidance and integrators: posterior sampling with diffusion priors.

A :class:`Denoiser` gives :math:`\mathbb{E}[x \mid x_t]`. Guidance, as :class:`MMPS`, takes one and
gives that of the posterior, :math:`\mathbb{E}[x \mid x_t, y]`. An integrator, as :class:`DDIM`,
samples from either.

Example:
    >>> import torch
    >>> from appa_prob.operators import Isotropic, Mask
    >>> prior = GaussianDenoiser(torch.zeros(2), Isotropic(1.0, 2), VESchedule(0.01, 100.0))
    >>> y = GaussianLikelihood(Mask(torch.tensor([True, False])), torch.tensor([1.0]), 0.01)
    >>> sampler, posterior = DDIM(64, eta=1.0), MMPS(prior, y)
    >>> sampler(posterior, sampler.noise(posterior, (16,))).shape
    torch.Size([16, 2])
"""

if __name__ != "appa_prob.samplers":
    raise ImportError("Import this package as `appa_prob.samplers`.")

from .adams_bashforth import AdamsBashforth
from .adaptive_ode import AdaptiveODE
from .azula_denoiser import AzulaDenoiser
from .classifier_free import ClassifierFree, leave_out
from .daps import DAPS
from .dcps import DCPS
from .ddim import DDIM, DDPM
from .ddnm import DDNM
from .ddrm import DDRM
from .defaults import Samples, sample
from .denoiser import Denoiser
from .diffpir import DiffPIR
from .diffusers_denoiser import diffusers_denoiser
from .dpm_solver import DPMSolver
from .dpm_solver_sde import DPMSolverSDE
from .dps import DPS
from .edm_schedule import EDMSchedule
from .euler import Euler
from .euler_maruyama import EulerMaruyama
from .flow_density import flow_log_prob
from .function_schedule import FunctionSchedule, TabulatedSchedule
from .gaussian import ConditionalCovariance, Gaussian
from .gaussian_denoiser import GaussianDenoiser
from .guidance import Conditioning, Guidance
from .heun import Heun
from .integrator import Integrator
from .iterated import IteratedMMPS
from .jfps import JFPS
from .joint import CopiedDenoiser, JointDenoiser
from .joint_likelihood import JointLikelihood
from .latent import LatentLikelihood, LatentPosterior
from .likelihood import GaussianLikelihood, Likelihood
from .linear_multistep import LinearMultistep
from .linear_schedule import LinearVPSchedule
from .log_logit_schedule import LogLogitSchedule
from .loss import denoising_loss
from .mgdm import MGDM
from .mixture import Mixture
from .mixture_denoiser import MixtureDenoiser
from .mmps import MMPS
from .network_denoiser import (
    CleanPrediction,
    FlowPrediction,
    NoisePrediction,
    ScorePrediction,
    VPrediction,
)
from .particles import Particles
from .pigdm import PiGDM
from .preconditioned import PreconditionedDenoiser
from .predictor_corrector import PredictorCorrector
from .product import Product, Tempered
from .rational_schedule import RationalSchedule
from .recalibration import Recalibration
from .repaint import RePaint
from .rewind import RewindDDIM
from .schedule import RectifiedSchedule, Schedule, VESchedule, VPSchedule
from .sda import SDA
from .sharded_windows import ShardedWindows, window_pieces
from .state import State
from .stochastic_heun import StochasticHeun
from .switched import Switched
from .tds import TDS
from .time_law import LogitNormalTimes, LogNormalTimes, LogUniformTimes, UniformTimes
from .times import karras_times, ratio_times
from .tmpd import TMPD
from .weighting import EDMWeight, MinSNRWeight, SNRWeight
from .windowed import WindowedDenoiser

__all__ = [
    "DAPS",
    "DCPS",
    "DDIM",
    "DDNM",
    "DDPM",
    "DDRM",
    "DPS",
    "JFPS",
    "MGDM",
    "MMPS",
    "SDA",
    "TDS",
    "TMPD",
    "AdamsBashforth",
    "AdaptiveODE",
    "AzulaDenoiser",
    "ClassifierFree",
    "CleanPrediction",
    "ConditionalCovariance",
    "Conditioning",
    "CopiedDenoiser",
    "DPMSolver",
    "DPMSolverSDE",
    "Denoiser",
    "DiffPIR",
    "EDMSchedule",
    "EDMWeight",
    "Euler",
    "EulerMaruyama",
    "FlowPrediction",
    "FunctionSchedule",
    "Gaussian",
    "GaussianDenoiser",
    "GaussianLikelihood",
    "Guidance",
    "Heun",
    "Integrator",
    "IteratedMMPS",
    "JointDenoiser",
    "JointLikelihood",
    "LatentLikelihood",
    "LatentPosterior",
    "Likelihood",
    "LinearMultistep",
    "LinearVPSchedule",
    "LogLogitSchedule",
    "LogNormalTimes",
    "LogUniformTimes",
    "LogitNormalTimes",
    "MinSNRWeight",
    "Mixture",
    "MixtureDenoiser",
    "NoisePrediction",
    "Particles",
    "PiGDM",
    "PreconditionedDenoiser",
    "PredictorCorrector",
    "Product",
    "RationalSchedule",
    "RePaint",
    "Recalibration",
    "RectifiedSchedule",
    "RewindDDIM",
    "SNRWeight",
    "Samples",
    "Schedule",
    "ScorePrediction",
    "ShardedWindows",
    "State",
    "StochasticHeun",
    "Switched",
    "TabulatedSchedule",
    "Tempered",
    "UniformTimes",
    "VESchedule",
    "VPSchedule",
    "VPrediction",
    "WindowedDenoiser",
    "denoising_loss",
    "diffusers_denoiser",
    "flow_log_prob",
    "karras_times",
    "leave_out",
    "ratio_times",
    "sample",
    "window_pieces",
]
