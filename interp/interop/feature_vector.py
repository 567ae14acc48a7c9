"""The directions of one feature as a safetensors file, for use outside of this project."""

from __future__ import annotations

from safetensors.torch import save

from interp.decomposers.base import QuadraticDecomposer
from interp.errors import unknown_feature
from interp.runs.record import Run


def feature_vector(run: Run, feature: int) -> bytes:
    """A safetensors file with the unit rows ``write`` [d_out], what the feature adds at the site it writes, and ``read``
    [d_in], what it stands for at the site it reads; of a dead feature they are zeros.

    A quadratic latent has no single direction: ``eigenvalues`` [r] and ``eigenvectors`` [r, d_in] of its form are there too,
    the largest magnitude first. The header says of which run, weights, model and sites. Raises InputError for a feature that
    the run does not have.
    """
    decomposer = run.decomposer()
    if not 0 <= feature < decomposer.n_features:
        raise unknown_feature(str(feature), decomposer.n_features)
    tensors = {"write": decomposer.write_directions()[feature], "read": decomposer.read_directions()[feature]}
    if isinstance(decomposer, QuadraticDecomposer):
        form = decomposer.form(feature)
        tensors |= {"eigenvalues": form.eigenvalues, "eigenvectors": form.eigenvectors}
    header = {
        "schema": "interp-feature-vector",
        "version": "1",
        "run": run.name,
        "run_identity": run.identity,
        "kind": run.kind,
        "feature": str(feature),
        "model_id": run.model_id,
        "model_fingerprint": run.record.model_fingerprint,
        "read_site": run.site.read,
        "write_site": run.site.write,
    }
    return save({name: tensor.detach().float().cpu().clone() for name, tensor in tensors.items()}, header)
