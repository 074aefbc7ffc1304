"""The commands `model add`, `model list` and `model check`: from files to settings, without torch or a deployment."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import ValidationError

from pipeline.checkpoints.checkpoint import ModelFiles
from pipeline.cli.exits import NONE_SUCCEEDED, OK, PARTLY
from pipeline.cli.json_out import write_json
from pipeline.cli.options import AsJson
from pipeline.cli.table import print_table
from pipeline.deployment.model_check import check_model, model_id, only_variant, revision_of
from pipeline.deployment.model_file import MODELS_FILE, add_model, added_models
from pipeline.deployment.recipes import Recipe
from pipeline.deployment.settings import MachineSettings, ModelSource, RenderingSettings, load_part
from pipeline.errors import BadCheckpoint, RequestError

model = typer.Typer(help="Add, list and check models.", no_args_is_help=True)

DataDir = Annotated[
    Path | None, typer.Option(help="Folder of the local stack; by default TESSERA_DATA_DIR, or ~/.tessera.")
]


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.add_typer(model, name="model")


@model.command("add")
def add(
    path: Annotated[Path, typer.Argument(help="A .safetensors file, or a folder of a diffusers pipeline.")],
    name: Annotated[str | None, typer.Option("--id", help="What rows call it; by default the file's name.")] = None,
    vae: Annotated[Path | None, typer.Option(help="File or folder of another VAE.")] = None,
    text_encoders: Annotated[Path | None, typer.Option(help="File or folder with its text encoders.")] = None,
    config: Annotated[Path | None, typer.Option(help="Folder that describes a file of another size.")] = None,
    variant: Annotated[str | None, typer.Option(help="Of a folder's weights, fp16 say.")] = None,
    refiner: Annotated[Path | None, typer.Option(help="File or folder of a refiner.")] = None,
    refiner_switch_at: Annotated[
        float, typer.Option(help="Share of the schedule after which the refiner takes over.", min=0, max=1)
    ] = 0.8,
    recipe: Annotated[Recipe | None, typer.Option(help="How a distilled model is sampled.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of rows that name none.", min=1)] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="Guidance of rows that name none.", min=0)] = None,
    prediction: Annotated[
        Literal["epsilon", "v_prediction", "sample"] | None,
        typer.Option(help="What its network predicts, where its files do not say."),
    ] = None,
    zero_snr: Annotated[
        bool | None,
        typer.Option("--zero-snr/--no-zero-snr", help="Trained with zero terminal SNR.", show_default=False),
    ] = None,
    native_px: Annotated[
        int | None, typer.Option(help="Side of the square that it was trained on; by default 1024.", min=64)
    ] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> int:
    """Check a model's files and make its setting.

    The setting goes into the data folder of the local stack, if there is one, which offers the model when it starts the
    next time. Else it is printed, as TESSERA_MODELS and as the chart's values; the paths are then for you to change to
    those that pods see.
    """
    whole = path.expanduser().absolute()
    others = {"vae": vae, "text_encoders": text_encoders, "config": config}
    fields: dict[str, Any] = {
        **{field: str(one.expanduser().absolute()) for field, one in others.items() if one is not None},
        "path": str(whole),
        "variant": variant or only_variant(ModelFiles(whole)),
        "prediction": prediction,
        "zero_snr": zero_snr,
        "recipe": recipe,
        "native_px": native_px,
    }
    if refiner is not None:
        second = refiner.expanduser().absolute()
        fields["refiner"] = {
            "path": str(second),
            "revision": "unknown",
            "switch_at": refiner_switch_at,
            "variant": only_variant(ModelFiles(second)),
        }
    if steps is not None or guidance_scale is not None:
        fields["defaults"] = {"steps": steps, "guidance_scale": guidance_scale}
    given = {field: value for field, value in fields.items() if value is not None}
    try:
        found = check_model(ModelSource(revision="unknown", **given))
        revision, hashes = revision_of(whole)  # reads it whole, so what is wrong with it is said before
        if "refiner" in given:
            given["refiner"]["revision"], _ = revision_of(Path(given["refiner"]["path"]))
        if found.checkpoint.inpaints:
            given["inpainting"] = True
        source = ModelSource(revision=revision, sha256=hashes.sha256 if hashes is not None else None, **given)
    except ValidationError as error:
        raise RequestError("; ".join(str(item["msg"]) for item in error.errors())) from error
    identity = name or model_id(whole)
    setting = {identity: source.model_dump(mode="json", exclude_none=True, exclude_defaults=True)}
    folder = _folder(data_dir)
    written = add_model(folder, identity, source) if folder.is_dir() else None
    if as_json:
        shown = {} if hashes is None else {"autov2": hashes.autov2, "autov3": hashes.autov3}
        write_json({"models": setting, "found": found.lines(), "file": str(written or "") or None, **shown})
        return OK
    for line in found.lines():
        typer.echo(line)
    if hashes is not None:
        typer.echo(f"SHA-256 {hashes.sha256}, AutoV2 {hashes.autov2}, AutoV3 {hashes.autov3}")
    if written is not None:
        typer.echo(f"added as {identity!r} to {written}; `tessera up` offers it when it starts the next time")
        return OK
    typer.echo(f"\nTESSERA_MODELS={json.dumps(setting)!r}\n\nor in the chart's values:\n\nsettings:\n  models:")
    typer.echo(f"    {json.dumps(identity)}: {json.dumps(setting[identity])}")
    return OK


@model.command("list")
def list_models(data_dir: DataDir = None, as_json: AsJson = False) -> int:
    """List the models of TESSERA_MODELS and of the local stack's data folder, without opening their files."""
    models = _models(data_dir)
    if as_json:
        write_json({name: source.model_dump(mode="json", exclude_none=True) for name, (source, _) in models.items()})
        return OK
    print_table(
        *("MODEL", "REVISION", "RECIPE", "FROM", "PATH"),
        rows=[
            (name, source.revision, source.recipe or "-", where, source.path)
            for name, (source, where) in models.items()
        ],
    )
    return OK


@model.command("check")
def check(
    names: Annotated[list[str] | None, typer.Argument(help="Model ids; by default all.", show_default=False)] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> int:
    """Open the files of models and say what they hold, or what is wrong with them, as a pod would."""
    models = _models(data_dir)
    for name in names or ():
        if name not in models:
            raise RequestError(f"no model {name[:80]!r}; there are {', '.join(sorted(models)) or 'none'}")
    results: dict[str, dict[str, Any]] = {}
    for name in names or models:
        try:
            results[name] = {"ok": True, "found": check_model(models[name][0]).lines()}
        except BadCheckpoint as error:
            results[name] = {"ok": False, "found": [str(error)]}
    if as_json:
        write_json(results)
    else:
        for name, result in results.items():
            typer.echo(f"{name}: {'ok' if result['ok'] else 'cannot be rendered with'}")
            for line in result["found"]:
                typer.echo(f"  {line}")
    wrong = sum(not result["ok"] for result in results.values())
    return OK if not wrong else PARTLY if wrong < len(results) else NONE_SUCCEEDED


def _models(data_dir: Path | None) -> dict[str, tuple[ModelSource, str]]:
    """Each model and where it is named; the environment comes first."""
    added = {name: (source, MODELS_FILE) for name, source in added_models(_folder(data_dir)).items()}
    of_environment = load_part(RenderingSettings, os.environ).models if os.environ.get("TESSERA_MODELS") else {}
    return added | {name: (source, "TESSERA_MODELS") for name, source in of_environment.items()}


def _folder(data_dir: Path | None) -> Path:
    return data_dir if data_dir is not None else load_part(MachineSettings).data_dir
