r"""Priors, guidance and integrators: posterior sampling with diffusion priors.

A :class:`Denoiser` gives :math:`\mathbb{E}[x \mid x_t]`. Guidance, as :class:`MMPS`, takes one and
gives that of the posterior, :math:`\mathbb{E}[x \mid x_t, y]`. An integrator, as :class:`DDIM`,
samples from either; :func:`sample` chooses both.

A map of what is here:

- *priors* (each a :class:`Denoiser`): the exact :class:`GaussianDenoiser` and
  :class:`MixtureDenoiser` (laws :class:`Gaussian`, :class:`Mixture`); networks by what they
  predict, :class:`CleanPrediction`, :class:`NoisePrediction`, :class:`VPrediction`,
  :class:`FlowPrediction`, :class:`ScorePrediction`, :class:`PreconditionedDenoiser`, of other
  libraries :class:`AzulaDenoiser` and :func:`diffusers_denoiser`, conditional
  :class:`ClassifierFree`;
- *priors from priors*: :class:`WindowedDenoiser` and :class:`ShardedWindows` (pieces by
  :func:`window_pieces`), :class:`Product`, :class:`Tempered`, :class:`Switched`,
  :class:`JointDenoiser`, :class:`CopiedDenoiser`, :class:`DenseCovariance`;
- *schedules* (each a :class:`Schedule`): :class:`VESchedule`, :class:`VPSchedule`,
  :class:`LinearVPSchedule`, :class:`RectifiedSchedule`, :class:`EDMSchedule`,
  :class:`LogLogitSchedule`, :class:`RationalSchedule`, :class:`FunctionSchedule`,
  :class:`TabulatedSchedule`; grids of times :func:`karras_times`, :func:`ratio_times`,
  :func:`placed_times`;
- *training*: :func:`denoising_loss`, weights :class:`EDMWeight`, :class:`SNRWeight`,
  :class:`MinSNRWeight`, laws of times :class:`UniformTimes`, :class:`LogNormalTimes`,
  :class:`LogUniformTimes`, :class:`LogitNormalTimes`; :func:`leave_out` of conditions;
  :class:`Recalibration` on held-out data;
- *likelihoods* (each a :class:`Likelihood`): :class:`GaussianLikelihood`,
  :class:`JointLikelihood`, :class:`LatentLikelihood`; others are in ``appa_prob.likelihoods``;
- *guidance* (each a :class:`Guidance`, a denoiser in and a denoiser out): :class:`MMPS`,
  :class:`IteratedMMPS`, :class:`PiGDM`, :class:`TMPD`, :class:`SDA`, :class:`JFPS`,
  :class:`DiffPIR` (each a :class:`Conditioning`), :class:`DPS`, :class:`DDNM`, and
  :class:`LatentPosterior`;
- *posterior samplers* (integrators that know the likelihood): :class:`TDS` (gives
  :class:`Particles`), :class:`MGDM`, :class:`DCPS`, :class:`DAPS`, :class:`DDRM`,
  :class:`RePaint`; and :func:`sample`, which chooses (gives :class:`Samples`);
- *integrators* (each an :class:`Integrator`, which goes on from a :class:`State`): :class:`Euler`,
  :class:`Heun`, :class:`DDIM`, :class:`DDPM`, :class:`Ancestral`, :class:`EulerMaruyama`,
  :class:`StochasticHeun`, :class:`DPMSolver`, :class:`DPMSolverSDE`, :class:`AdamsBashforth`,
  :class:`LinearMultistep`, :class:`PredictorCorrector`, :class:`RewindDDIM`,
  :class:`AdaptiveODE`; densities by :func:`flow_log_prob`.

Exact laws and calibration of samplers are in :mod:`appa_prob.samplers.testing`.

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
from .ancestral import Ancestral
from .azula_denoiser import AzulaDenoiser
from .classifier_free import ClassifierFree, leave_out
from .daps import DAPS
from .dcps import DCPS
from .ddim import DDIM, DDPM
from .ddnm import DDNM
from .ddrm import DDRM
from .defaults import Samples, sample
from .denoiser import Denoiser
from .dense_covariance import DenseCovariance
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
from .gaussian import Gaussian
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
from .placed_times import placed_times
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
    "Ancestral",
    "AzulaDenoiser",
    "ClassifierFree",
    "CleanPrediction",
    "Conditioning",
    "CopiedDenoiser",
    "DPMSolver",
    "DPMSolverSDE",
    "Denoiser",
    "DenseCovariance",
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
    "placed_times",
    "ratio_times",
    "sample",
    "window_pieces",
]
