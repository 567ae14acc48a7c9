"""The names of ``import interp``: what one needs to capture, learn, judge, browse and steer in a notebook or a script."""

from __future__ import annotations

from interp.capturing.to_store import CaptureConfig, capture
from interp.corpora.documents import Corpus, Document, LabelSet
from interp.corpora.sources import load_corpus, make_corpus
from interp.decomposers import (
    ICA,
    NMF,
    PCA,
    SAE,
    Bilinear,
    Decomposer,
    DiffMeans,
    FrozenSAE,
    KMeans,
    Neurons,
    RandomDirections,
    SemiNMF,
    SubspaceSAE,
)
from interp.decomposers.baselines.diff_means import DiffMeansConfig
from interp.decomposers.baselines.ica import ICAConfig
from interp.decomposers.baselines.kmeans import KMeansConfig
from interp.decomposers.baselines.neurons import NeuronsConfig
from interp.decomposers.baselines.nmf import NMFConfig
from interp.decomposers.baselines.pca import PCAConfig
from interp.decomposers.baselines.random_directions import RandomConfig
from interp.decomposers.bilinear.autoencoder import BilinearConfig
from interp.decomposers.sae.autoencoder import FrozenSAEConfig, SAEConfig, SubspaceSAEConfig
from interp.decomposers.semi_nmf.decomposer import SemiNMFConfig
from interp.errors import InputError
from interp.evaluation.compare import compare_runs as compare
from interp.evaluation.results import EvaluationConfig, read_metrics
from interp.evaluation.suite import evaluate_run as evaluate
from interp.index.build import IndexConfig, build_index
from interp.index.reader import FeatureIndex
from interp.model.language_model import LanguageModel, load_model
from interp.runs.record import Run, find_runs
from interp.runs.training import train_run as train
from interp.steering.sampling import Sampling
from interp.steering.steerer import Steerer
from interp.store.reader import ActivationStore
from interp.store.source import ArraySource

__all__ = [
    "ICA",
    "NMF",
    "PCA",
    "SAE",
    "ActivationStore",
    "ArraySource",
    "Bilinear",
    "BilinearConfig",
    "CaptureConfig",
    "Corpus",
    "Decomposer",
    "DiffMeans",
    "DiffMeansConfig",
    "Document",
    "EvaluationConfig",
    "FeatureIndex",
    "FrozenSAE",
    "FrozenSAEConfig",
    "ICAConfig",
    "IndexConfig",
    "InputError",
    "KMeans",
    "KMeansConfig",
    "LabelSet",
    "LanguageModel",
    "NMFConfig",
    "Neurons",
    "NeuronsConfig",
    "PCAConfig",
    "RandomConfig",
    "RandomDirections",
    "Run",
    "SAEConfig",
    "Sampling",
    "SemiNMF",
    "SemiNMFConfig",
    "Steerer",
    "SubspaceSAE",
    "SubspaceSAEConfig",
    "build_index",
    "capture",
    "compare",
    "evaluate",
    "find_runs",
    "load_corpus",
    "load_model",
    "make_corpus",
    "read_metrics",
    "train",
]
