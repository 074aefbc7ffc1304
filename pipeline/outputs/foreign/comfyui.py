"""Files of ComfyUI: the graph in `prompt`, where it is a plain text-to-image one.

It is followed from the node that saves the picture to the checkpoint. A node on that walk that is not known here ends
it, with its name, since the picture follows from it; one that only changes the model is passed over and named.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.outputs.foreign.found import ForeignPicture, Found, NotCarriedOver, number, parsed_json

MAX_WALK = 200  # nodes one behind the other

_SAVES = ("SaveImage", "PreviewImage", "SaveImageWebsocket", "Image Save", "SaveImageExtended")
_SAVES_IMAGES = re.compile(r"save.*image|image.*sav|preview.*image", re.I)
_SAMPLERS = ("KSampler", "KSamplerAdvanced")
_LORAS = ("LoraLoader", "LoraLoaderModelOnly")
_CHECKPOINTS = ("CheckpointLoaderSimple", "CheckpointLoader", "CheckpointLoader|pysssss")
_EMPTY_LATENTS = ("EmptyLatentImage", "EmptySD3LatentImage")
_DECODES = ("VAEDecode", "VAEDecodeTiled")
_REROUTES = ("Reroute", "Reroute (rgthree)", "PreviewAny", "ShowText|pysssss")
_ENCODES = "CLIPTextEncode", "CLIPTextEncodeSDXL"
# A node that holds one value and is called after that alone: what else stands in a name may say that it computes.
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_OF_VALUES = frozenset(
    [
        *(
            "primitive",
            "constant",
            "literal",
            "string",
            "text",
            "multiline",
            "box",
            "int",
            "integer",
            "float",
            "number",
        ),
        *("seed", "generator", "value", "prompt", "positive", "negative", "input", "node", "note", "simple"),
        *("basic", "easy", "impact", "global"),
    ]
)
_AUTHORS = re.compile(r"[|(\[].*")
_BESIDE_VALUES = frozenset({"control_after_generate", "number_type"})


def read(texts: Mapping[str, str]) -> ForeignPicture | None:
    """The picture of the graph; None if there is none. Raises NotCarriedOver naming the node that is in the way."""
    text = texts.get("prompt") or _named(texts, "prompt:")
    if text is None or not text.lstrip().startswith("{"):
        if "workflow" in texts or _named(texts, "workflow:"):
            raise NotCarriedOver("it has the editor's workflow alone, without the graph that was run (`prompt`)")
        return None
    graph = parsed_json(text, "its graph")
    if not isinstance(graph, Mapping) or not any(isinstance(n, Mapping) and "class_type" in n for n in graph.values()):
        return None
    return _Walk(graph).picture()


def _named(texts: Mapping[str, str], mark: str) -> str | None:
    """What ComfyUI writes into the EXIF of a WebP: `prompt:{...}`."""
    found = next((text for text in texts.values() if text[: len(mark)].lower() == mark), None)
    return None if found is None else found[len(mark) :]


class _Node:
    def __init__(self, key: str, given: Mapping[str, Any]) -> None:
        inputs = given.get("inputs")
        self.key, self.kind = key, str(given.get("class_type"))
        self.inputs: Mapping[str, Any] = inputs if isinstance(inputs, Mapping) else {}

    def __str__(self) -> str:
        return f"node {self.kind[:60]!r} ({self.key[:20]})"


class _Walk:
    def __init__(self, graph: Mapping[str, Any]) -> None:
        self._nodes = {key: _Node(key, given) for key, given in graph.items() if isinstance(given, Mapping)}
        self._found = Found({"syntax": "comfy"})
        self._text_loras: list[_Node] = []
        self._clip_layers: set[int] = set()

    def picture(self) -> ForeignPicture:
        sampler = self._sampler()
        found, row = self._found, self._found.row
        self._latent(sampler)
        advanced = sampler.kind == "KSamplerAdvanced"
        found.seed(self._value(sampler, "noise_seed" if advanced else "seed"))
        found.put("steps", self._value(sampler, "steps"), int)
        found.put("guidance_scale", self._value(sampler, "cfg"), float)
        name, schedule = self._value(sampler, "sampler_name"), self._value(sampler, "scheduler")
        if isinstance(name, str):
            row["scheduler"] = {"name": name, "schedule": schedule} if isinstance(schedule, str) and schedule else name
        self._whole_schedule(sampler, advanced=advanced)
        self._text_loras = self._text(self._input(sampler, "positive"), "prompt") or []
        of_negative = self._text(self._input(sampler, "negative"), "negative_prompt")
        if of_negative is not None and of_negative != self._text_loras:
            found.leave_out("LoRAs of the negative prompt's text encoders, which differ from the prompt's")
        model, loras = self._model(self._input(sampler, "model"))
        # In the order in which they are applied.
        row["loras"] = [self._lora(node, loras) for node in _merged(self._text_loras, loras)]
        if len(self._clip_layers) == 1:
            [layer] = self._clip_layers
            if layer != -2:  # what SDXL is conditioned on anyway
                row["clip_skip"] = -layer
        elif self._clip_layers:
            found.leave_out(f"CLIP layers {sorted(self._clip_layers)}, which differ from text to text")
        return ForeignPicture("ComfyUI", row, tuple(found.left_out), model)

    def _sampler(self) -> _Node:
        saves = [n for n in self._nodes.values() if n.kind in _SAVES or _SAVES_IMAGES.search(n.kind)]
        if not saves:
            raise NotCarriedOver("no node of its graph saves an image")
        ends: dict[str, _Node] = {}
        problem: NotCarriedOver | None = None
        for save in saves:
            try:
                sampler = self._sampler_before(save)
                ends[sampler.key] = sampler
            except NotCarriedOver as error:
                problem = problem or error
        if not ends:
            raise problem or NotCarriedOver("its graph leads to no sampler")
        if len(ends) > 1 or problem is not None:
            self._found.leave_out(f"the other pictures of its graph, which saves {len(saves)}")
        return next(iter(ends.values()))

    def _sampler_before(self, save: _Node) -> _Node:
        decode = self._input(save, "images", "image")
        if decode.kind not in _DECODES:
            raise NotCarriedOver(f"{decode} between sampler and file")
        sampler = self._input(decode, "samples")
        if sampler.kind not in _SAMPLERS:
            raise NotCarriedOver(f"{sampler} in the place of a KSampler")
        return sampler

    def _latent(self, sampler: _Node) -> None:
        latent = self._input(sampler, "latent_image")
        if latent.kind not in _EMPTY_LATENTS:
            raise NotCarriedOver(f"{latent} gives the sampler its latent; an EmptyLatentImage wanted")
        for name in ("width", "height"):
            self._found.put(name, self._value(latent, name), int)
        size = number(self._value(latent, "batch_size") or 1, int)
        if size and size > 1:
            self._found.leave_out(f"which of a batch of {size} pictures it is: the noise is that of the first")

    def _whole_schedule(self, sampler: _Node, *, advanced: bool) -> None:
        if not advanced:
            denoise = number(self._value(sampler, "denoise"), float)
            if denoise not in (None, 1.0):
                raise NotCarriedOver(f"{sampler} denoises {denoise:g} of its schedule; 1 wanted")
            return
        first, last = (number(self._value(sampler, name), int) for name in ("start_at_step", "end_at_step"))
        steps = self._found.row.get("steps", 0)
        if first or (last is not None and last < steps):
            raise NotCarriedOver(f"{sampler} walks steps {first} to {last} of {steps}; all of them wanted")
        if self._value(sampler, "add_noise") == "disable":
            raise NotCarriedOver(f"{sampler} adds no noise")

    def _text(self, node: _Node, field: str) -> list[_Node] | None:
        """Read a text; the LoRAs of its encoders, the first applied first, or None if it needs none."""
        row = self._found.row
        if node.kind == "ConditioningZeroOut" and field == "negative_prompt":
            row[field] = None
            return None
        if node.kind not in _ENCODES:
            raise NotCarriedOver(f"{node} gives the {field.replace('_', ' ')}; a CLIPTextEncode wanted")
        loras = self._clip(self._input(node, "clip"))
        if node.kind == "CLIPTextEncode":
            row[field] = self._string(node, "text")
            return loras
        row[field], second = self._string(node, "text_l"), self._string(node, "text_g")
        if second != row[field]:
            row[f"{field}_2"] = second
        prefix = "" if field == "prompt" else "negative_"
        for name, width, height in (
            ("original_size", "width", "height"),
            ("target_size", "target_width", "target_height"),
        ):
            sides = [number(self._value(node, side), int) for side in (width, height)]
            if all(sides):
                row[prefix + name] = sides
        crop = [number(self._value(node, side), int) for side in ("crop_w", "crop_h")]
        if any(crop):
            row[f"{prefix}crop"] = crop
        return loras

    def _clip(self, node: _Node) -> list[_Node]:
        """Up to the checkpoint; the LoRAs on the way, the first applied first."""
        loras: list[_Node] = []
        for _ in range(MAX_WALK):
            if node.kind == "CLIPSetLastLayer":
                layer = number(self._value(node, "stop_at_clip_layer"), int)
                self._clip_layers.add(layer if layer is not None else -2)
            elif node.kind in _CHECKPOINTS:
                return loras[::-1]
            elif node.kind == "LoraLoader":
                loras.append(node)
            else:
                raise NotCarriedOver(f"{node} gives the text encoders; a checkpoint or LoRA wanted")
            node = self._input(node, "clip")
        raise NotCarriedOver(f"more than {MAX_WALK} nodes before the text encoders")

    def _model(self, node: _Node) -> tuple[str | None, list[_Node]]:
        """Up to the checkpoint: its name, and the LoRAs on the way, the first applied first."""
        loras: list[_Node] = []
        for _ in range(MAX_WALK):
            if node.kind in _CHECKPOINTS:
                name = self._value(node, "ckpt_name")
                return name if isinstance(name, str) else None, loras[::-1]
            if node.kind in _LORAS:
                loras.append(node)
            elif "model" in node.inputs:
                self._found.leave_out(f"{node}, which changes the model")
            else:
                raise NotCarriedOver(f"{node} gives the model; a CheckpointLoaderSimple wanted")
            node = self._input(node, "model")
        raise NotCarriedOver(f"more than {MAX_WALK} nodes before the model")

    def _lora(self, node: _Node, of_model: Sequence[_Node]) -> dict[str, Any]:
        """A LoRA acts on what it stands before: the model, the text encoders, or both."""
        name, scale = self._value(node, "lora_name"), number(self._value(node, "strength_model"), float)
        if not isinstance(name, str) or (scale is None and node in of_model):
            raise NotCarriedOver(f"{node} names no LoRA")
        scale = scale if node in of_model else 0.0
        of_text = number(self._value(node, "strength_clip"), float) if node in self._text_loras else 0.0
        text_scale = {} if of_text is None or of_text == scale else {"text_scale": of_text}
        return {"name": name, "scale": scale, **text_scale}

    def _string(self, node: _Node, name: str) -> str:
        value = self._value(node, name)
        if not isinstance(value, str):
            raise NotCarriedOver(f"{node} has no text in {name}")
        return value

    def _value(self, node: _Node, name: str) -> Any:
        """A plain value, or that of a node that holds one. Raises NotCarriedOver if it is computed."""
        value = node.inputs.get(name)
        for _ in range(MAX_WALK):
            source = self._linked(value)
            if source is None:
                return value
            own = [one for at, one in source.inputs.items() if at not in _BESIDE_VALUES]
            links = [one for one in own if self._linked(one) is not None]
            if source.kind in _REROUTES and len(links) == 1:
                value = links[0]
            elif len(own) == 1 and not links and _holds_a_value(source.kind):
                value = own[0]
            else:
                raise NotCarriedOver(f"{source} computes {name} of {node}")
        raise NotCarriedOver(f"more than {MAX_WALK} nodes before {name} of {node}")

    def _input(self, node: _Node, *names: str) -> _Node:
        """The node behind an input, reroutes passed over. Raises NotCarriedOver if there is none."""
        found = self._linked(next((node.inputs[name] for name in names if name in node.inputs), None))
        for _ in range(MAX_WALK):
            if found is None:
                raise NotCarriedOver(f"nothing is connected to {names[0]} of {node}")
            if found.kind not in _REROUTES:
                return found
            found = next((n for value in found.inputs.values() if (n := self._linked(value))), None)
        raise NotCarriedOver(f"more than {MAX_WALK} reroutes before {names[0]} of {node}")

    def _linked(self, value: Any) -> _Node | None:
        """The node that a value points at: [key, output]."""
        if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str | int):
            return self._nodes.get(str(value[0]))
        return None


def _holds_a_value(kind: str) -> bool:
    """Whether a node's name says that it holds a value and nothing more; what is very short is its author's."""
    words = _WORDS.findall(_AUTHORS.sub("", kind))
    of_values = [word for word in words if word.lower() in _OF_VALUES]
    others = [word for word in words if word.lower() not in _OF_VALUES]
    return bool(of_values) and all(len(word) <= (3 if word.isupper() else 2) for word in others)


def _merged(first: Sequence[_Node], second: Sequence[_Node]) -> list[_Node]:
    """The nodes of both ways, each once, in an order that fits both where there is one."""
    merged: list[_Node] = []
    behind = list(second)
    for node in first:
        if node in behind:
            at = behind.index(node)
            merged += [*behind[:at], node]
            behind = behind[at + 1 :]
        elif node not in merged:
            merged.append(node)
    return merged + [node for node in behind if node not in merged]
