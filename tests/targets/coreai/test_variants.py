"""Assets of every choice that a model has."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import pytest

from hydra_export import parity
from hydra_export.architecture import HydraConfig
from hydra_export.gate import Gate
from hydra_export.target import InputForm
from tests.targets.conftest import Case, given, pixels
from tests.targets.coreai.conftest import COREAI
from tests.variants import VARIANTS, checkpoint, turns

pytestmark = pytest.mark.usefixtures("needs_coreai")

_MODELS = VARIANTS | {
    "distilled, own classifiers": msgspec.structs.replace(VARIANTS["distilled"], separate_classifiers=(1, 2, 4))
}
_QUICK = [(Case(COREAI, "universal", "fp16"), {"input": "image", "batch": 3})]


def _prove(config: HydraConfig, out: Path, cases: list[tuple[Case, dict[str, Any]]]) -> None:
    """As an export does it."""
    model = checkpoint(config)
    images, data = pixels(config), model.info.preprocessing
    for number, (case, choices) in enumerate(cases):
        for artifact in case.write(model, (1, 2, 4), out / str(number), **choices):
            path, image = out / str(number) / artifact.path, given(model, artifact.spec)
            COREAI.lint(path)
            assert COREAI.signature(path) == (artifact.inputs, artifact.outputs)
            for k in artifact.heads:
                size = math.prod(config.output_shape(k))  # timm gives the tokens before those of patches as well
                expected = {
                    kind: parity.Reference(_last(found.exact, size), _last(found.torch_fp32, size))
                    for kind in dict.fromkeys((case.precision, "fp32"))
                    for found in [parity.reference(model.model, k, images, data, kind)]
                }
                run = lambda session: _last(session.run(image), size)  # noqa: B023, E731
                record, _ = parity.verify(COREAI, path, k, case.precision, expected, run, gate=Gate(open=True))
                assert record.cosine > (0.98 if case.precision == "int8" else 0.999999)


def _last(outputs: Any, size: int) -> Any:
    return np.reshape(outputs, (len(outputs), -1))[:, -size:]


@pytest.mark.parametrize("name", _MODELS)
def test_assets_compute_every_choice(name: str, tmp_path: Path) -> None:
    _prove(_MODELS[name], tmp_path, _QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("name", _MODELS)
def test_so_does_every_asset(name: str, tmp_path: Path) -> None:
    forms = itertools.product(COREAI.graphs, COREAI.precisions, get_args(InputForm), (1, 3))
    _prove(
        _MODELS[name],
        tmp_path,
        [
            (Case(COREAI, graph, precision), {"input": form, "batch": batch})
            for graph, precision, form, batch in turns(forms, list(_MODELS).index(name), 3)
        ],
    )
