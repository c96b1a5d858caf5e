"""What a trained cell left behind, ready for inference: its weights, its data and its tokenizer."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mor_core.config.model import ModelConfig, Precision
from mor_core.config.own_model import OwnModel
from mor_core.data.prepare import find_by_fingerprint
from mor_core.data.snapshot import TOKENIZER_FILE, DataSnapshot
from mor_core.data.tokens.tokenizer import load_tokenizer, read_tokenizer
from mor_core.errors import UserError
from mor_core.inference.stages import inference_model
from mor_core.interop.hugging_face import check_exportable, export_llama
from mor_core.model.device import default_device
from mor_core.model.transformer import Transformer, build_model
from mor_core.training.checkpoint import load_checkpoint
from orchestrator.planning.cells import Cell
from orchestrator.records.cell_names import cell_name
from orchestrator.records.revisions import Sweep
from orchestrator.store.published import StoreError, read_spec
from orchestrator.store.store import Store

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class NotTrained(UserError):
    """A cell that has no weights, or none whose tokens can be read; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class TrainedCell:
    """A cell's model and the text that it knows."""

    cell: Cell
    """Which."""
    model: Transformer
    """For inference: fp32 weights, whatever precision it was trained in, unless bf16 was asked for."""
    data: DataSnapshot
    """What it was trained on."""
    tokenizer: "Tokenizer"
    """Text to token ids and back."""
    end_of_text: int
    """The id that ends a document."""

    @property
    def name(self) -> str:
        """arm/size/budget."""
        return cell_name(self.cell)


def load_trained_cell(store: Store, sweep: Sweep, cell: Cell, precision: Precision = "fp32") -> TrainedCell:
    """A cell on this machine's GPU, or on its CPU where there is none.

    Raises NotTrained where the cell is not finished, CheckpointError where its weights were damaged.
    """
    family = family_model(cell)
    weights = finished_weights(store, sweep, cell)
    data = data_of(store, weights)
    model = build_model(family, cell.seed, default_device())
    load_checkpoint(store.checkpoint_folder(weights), model, None)
    file = data.folder / TOKENIZER_FILE
    return TrainedCell(
        cell=cell,
        model=inference_model(model, precision),
        data=data,
        tokenizer=load_tokenizer(file),
        end_of_text=read_tokenizer(file).end_of_text_id,
    )


def family_model(cell: Cell) -> ModelConfig:
    """The shape of a cell of our family. Raises NotTrained for a user's own model, whose code is not run here."""
    if isinstance(cell.model, OwnModel):
        raise NotTrained(
            f"cell {cell_name(cell)} is a model of your own ({cell.model.object}): text, tasks, speed, depth, routing "
            "and export are for vanilla, recursive and mor"
        )
    return cell.model


def cells_of_family(sweep: Sweep) -> list[Cell]:
    """A sweep's cells without those of the user's own models. Raises NotTrained where all are of such models."""
    cells = [cell for cell in sweep.cells if not isinstance(cell.model, OwnModel)]
    if sweep.cells and not cells:
        family_model(sweep.cells[0])
    return cells


def own_arms(sweep: Sweep) -> list[str]:
    """Labels of a sweep's arms that are models of the user's own."""
    return sorted({cell.arm for cell in sweep.cells if cell.architecture == "own"})


def weights_id(sweep: Sweep, cell: Cell) -> str:
    """Id of the segment that ends with a cell's weights, trained or not."""
    return next(segment.id for segment in reversed(sweep.chain(cell)) if segment.kind != "evaluate")


def finished_weights(store: Store, sweep: Sweep, cell: Cell) -> str:
    """Id of the segment that ends with a cell's weights. Raises NotTrained where they are not there, or no more."""
    weights = weights_id(sweep, cell)
    again = "give the sweep's command again to finish it (`mor-sweep status` shows what is)"
    result = store.result(weights)
    if result is None or not result.is_finished:
        raise NotTrained(f"cell {cell_name(cell)} of sweep {sweep.name} is not trained: {again}")
    store.upstream.fetch_checkpoint(weights)
    if not store.checkpoint_folder(weights).is_dir():
        folder = store.segment_folder(weights)
        raise NotTrained(
            f"the weights of cell {cell_name(cell)} were removed by `mor-sweep gc`: move {folder} away and {again}"
        )
    return weights


def data_of(store: Store, segment_id: str) -> DataSnapshot:
    """The data snapshot that a segment was trained on. Raises NotTrained where the cache does not hold it."""
    files = store.published(segment_id)
    try:
        fingerprint = read_spec(files.spec).trunk.data_fingerprint
    except StoreError as error:
        raise StoreError(f"{error}; move {files.folder} away and train again") from error
    data = find_by_fingerprint(fingerprint)
    if data is None:
        raise NotTrained(
            f"the data that these weights were trained on ({fingerprint[:12]}) is not in the cache: prepare it with "
            "`mor-sweep data prepare`, or set MOR_SWEEP_CACHE to the cache that holds it"
        )
    return data


def export_cell(store: Store, sweep: Sweep, cell: Cell, folder: Path) -> TrainedCell:
    """Write a vanilla or recursive cell as a Hugging Face Llama folder, which transformers loads. Returns the cell.

    Raises NotTrained and CheckpointError, and what `check_exportable` raises before anything is loaded."""
    check_exportable(family_model(cell), folder)
    trained = load_trained_cell(store, sweep, cell, "fp32")
    export_llama(trained.model, folder, trained.data.folder / TOKENIZER_FILE)
    return trained
