"""A stand-in network on its way to a bundle: whole, checked, or not there at all."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import calibox_export
from calibox_core.bundle import MANIFEST_FILE, MODEL_FILE, next_version, read_bundle
from calibox_core.errors import BundleError, InvalidParameterError
from calibox_export.errors import ExportError
from calibox_export.network import network_graph
from calibox_export.onnx_export import export_bundle, probes
from calibox_export.parity import MEANING, REFINED, compare_batch, open_graph, usual_settings
from calibox_export.source import Source, run_network
from calibox_training.checkpoint import TrainedModel
from tests.support.manifests import small_manifest
from tests.support.recipes import tiny_recipe

HEIGHT, WIDTH = 96, 128  # the tiny recipe's


class StandIn(nn.Module):
    """One box per cell of 8 pixels; signature and ranges of CandidateGraph."""

    def __init__(self, *, wrong_by: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 8, stride=8)
        self.head = nn.Conv2d(16, 2 + 1 + 4, 1)
        self.wrong_by = wrong_by  # pixels, in the exported graph only
        y, x = torch.meshgrid(torch.arange(HEIGHT // 8), torch.arange(WIDTH // 8), indexing="ij")
        self.register_buffer("centres", torch.stack([x, y], dim=-1).reshape(-1, 2) * 8.0 + 4)

    def forward(self, images: Tensor, fusion: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        unit = images.permute(0, 3, 1, 2).float() / 64 - 2
        raw = self.head(self.stem(unit).tanh()).flatten(2).transpose(1, 2)
        # The key's exponents take part, as they do where levels are cut to their best.
        scores = (3 * raw[..., :3]).sigmoid() + 0 * fusion[:, None, :1]
        centre, half = self.centres + 8 * raw[..., 3:5].tanh(), 10 + 4 * raw[..., 5:].tanh()
        boxes = torch.cat([centre - half, centre + half], dim=-1)
        if torch.compiler.is_exporting():
            boxes = boxes + self.wrong_by
        return boxes, scores[..., :2], scores[..., 2:]


def source(network: nn.Module) -> Source:
    facts = small_manifest()
    trained = TrainedModel(
        detector=network,  # type: ignore[arg-type]
        recipe=tiny_recipe(),
        classes=facts.classes,
        dataset=facts.dataset,
        commit="0" * 40,
        metrics={"AP": 0.25, "APs": None},
    )
    return Source(trained, network, uncut=network, cuts=())  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return StandIn().eval()


@pytest.fixture(scope="module")
def bundle(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_bundle(source(network), tmp_path_factory.mktemp("models"))


def test_a_bundle_is_whole_and_says_where_it_comes_from(bundle: Path) -> None:
    assert bundle.parts[-2:] == ("tiny", "1")
    assert sorted(path.name for path in bundle.iterdir()) == [MANIFEST_FILE, MODEL_FILE]
    assert [path.name for path in bundle.parent.iterdir()] == ["1"]  # no scratch folder is left
    manifest, recipe = read_bundle(bundle).manifest, tiny_recipe()
    assert (manifest.input, manifest.nms, manifest.fusion) == (recipe.input, recipe.nms, recipe.fusion)
    assert manifest.measured == {"val": {"AP": 0.25, "APs": None}}
    assert manifest.provenance.recipe == recipe.model_dump(mode="json")
    assert manifest.provenance.torch_version == torch.__version__


def test_the_graph_answers_as_the_network_at_other_batch_sizes(bundle: Path, network: nn.Module) -> None:
    whole = read_bundle(bundle)
    settings = usual_settings(whole.manifest)
    for batch in (1, 2, 5):
        outcomes = compare_batch(
            probes(batch, height=HEIGHT, width=WIDTH),
            [settings[i % len(settings)] for i in range(batch)],
            graph=open_graph(whole.model_path),
            network=partial(run_network, network),
            manifest=whole.manifest,
        )
        assert set(outcomes) == set(MEANING) - {REFINED}
        for what, outcome in outcomes.items():
            assert (outcome.compared > 0, outcome.different) == (True, 0), what


def test_the_file_holds_no_path_of_the_exporting_machine(bundle: Path) -> None:
    written = (bundle / MODEL_FILE).read_bytes()
    for folder in (Path(calibox_export.__file__).parents[2], Path(__file__).parent, Path(torch.__file__).parent):
        assert str(folder).encode() not in written
    assert b"stack_trace" not in written


def test_the_exporter_prints_nothing(network: nn.Module, capfd: pytest.CaptureFixture[str]) -> None:
    network_graph(network, height=HEIGHT, width=WIDTH)
    assert capfd.readouterr() == ("", "")


def test_a_disagreeing_graph_leaves_nothing_behind(tmp_path: Path) -> None:
    torch.manual_seed(0)
    with pytest.raises(ExportError, match=r"differs from the network at batch 1.*largest gap .* of a box 0\.05 px"):
        export_bundle(source(StandIn(wrong_by=0.05).eval()), tmp_path)
    assert list((tmp_path / "tiny").iterdir()) == []


def test_a_network_in_training_mode_is_refused() -> None:
    with pytest.raises(ExportError, match="training mode"):
        network_graph(StandIn().train(), height=HEIGHT, width=WIDTH)


def test_a_network_that_cannot_be_a_graph_is_refused_with_a_sentence() -> None:
    class Branching(StandIn):
        def forward(self, images: Tensor, fusion: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            if images.float().mean() > 3:
                images = images + 1
            return super().forward(images, fusion)

    with pytest.raises(ExportError, match="torch cannot write the network as an ONNX graph"):
        network_graph(Branching().eval(), height=HEIGHT, width=WIDTH)


def test_versions_count_up_and_none_is_overwritten(tmp_path: Path, network: nn.Module) -> None:
    assert next_version(tmp_path / "tiny") == "1"
    for version in ("2", "10", "notes"):
        (tmp_path / "tiny" / version).mkdir(parents=True)
    assert next_version(tmp_path / "tiny") == "11"
    with pytest.raises(BundleError, match="exists"):
        export_bundle(source(network), tmp_path, version="10")


@pytest.mark.parametrize(("what", "value"), [("name", "../elsewhere"), ("version", "0"), ("version", "latest")])
def test_a_name_or_version_that_is_no_folder_is_refused(
    what: str, value: str, tmp_path: Path, network: nn.Module
) -> None:
    with pytest.raises(InvalidParameterError, match=f"^{what} .*will not do"):
        export_bundle(source(network), tmp_path, **{what: value})
    assert list(tmp_path.iterdir()) == []


def test_probes_are_images_with_content() -> None:
    images = probes(3, height=HEIGHT, width=WIDTH)
    assert images.shape == (3, HEIGHT, WIDTH, 3)
    assert images.std(axis=(1, 2)).min() > 30
    assert (images[0] != images[1]).any()
