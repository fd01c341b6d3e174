"""`edge-gemma info`: what a GGUF file contains and how much memory the model needs.

Reads any GGUF file: a model, encoders (mmproj), a vocabulary, a model of another architecture. Owns the presentation. The
arithmetic is in inspection.py.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from ..engine.memory import file_parts, format_bytes
from . import inspection
from .common import (
    DONE,
    UsageError,
    add_model_options,
    add_verb,
    announce_toy,
    format_count,
    model_paths,
    print_json,
    print_table,
    size,
    typed_command,
)
from .fitting import print_fits, what_fits
from .inspection import TensorRow
from .parsing import file_path, wrap

CONTEXTS = (4096, 8192, 32768)
_SPLIT = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")

EXAMPLES = """
edge-gemma info gemma-4-E2B-it-Q4_0.gguf
edge-gemma info e2b
edge-gemma info e2b --memory-limit 1.5GB
edge-gemma info --json *.gguf | jq -c '[.file, .type]'
edge-gemma info mmproj.gguf --tensors
edge-gemma info -m model.gguf --template > template.jinja
edge-gemma info model.gguf --json | jq .decode_bytes
"""


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Adds the verb to the command line."""
    parser = add_verb(subparsers, "info", "show what a GGUF file contains and the memory it needs", EXAMPLES)
    parser.add_argument(
        "files",
        nargs="*",
        type=file_path,
        metavar="FILE",
        help="any GGUF file, or the name of a model that was downloaded (default: the model of --model)",
    )
    parser.add_argument("--tensors", action="store_true", help="list every tensor")
    parser.add_argument("--metadata", action="store_true", help="list every key with its value")
    parser.add_argument("--template", action="store_true", help="print the chat template and nothing else")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object instead of text; for several files one on each line"
    )
    parser.add_argument(
        "--memory-limit",
        type=size,
        metavar="SIZE",
        help="tell the longest context that stays within this much memory in all, such as 1.5GB (default: a table of limits)",
    )
    add_model_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Prints what the files contain."""
    files = args.files or [args.model]
    if args.template and len(files) > 1:
        raise UsageError("--template prints the template of one file.")
    for number, args.model in enumerate(files):
        report = _report(args)
        if args.json:
            print_json(report, one_line=len(files) > 1)
        elif args.template:
            print(report["template"])
        else:
            print("\n" * (number > 0), end="")
            _print_report(report)
    return DONE


def _report(args: argparse.Namespace) -> dict[str, Any]:
    """What is to be said of the file of `args.model`, as plain data."""
    announce_toy(args)
    path, mmproj = model_paths(args)
    from ..engine.gguf import GGUFFile

    with GGUFFile(path) as file:
        metadata, rows = file.metadata, tensor_rows(file)
        if args.template:
            return _template(metadata, args.json)
        report = describe(path, metadata, rows, args.threads, sidecar=not args.no_sidecar)
        if report.get("decode_bytes"):
            report["fits"] = what_fits(path, mmproj, args.memory_limit, args.threads)
        if args.tensors:
            report["tensors"] = [
                {"name": row.name, "type": row.type, "shape": list(row.dims), "bytes": row.bytes} for row in rows
            ]
        if args.metadata:
            report["metadata"] = {key: _plain(metadata[key]) for key in metadata}
    return report


def tensor_rows(file: Any) -> list[TensorRow]:
    """The tensors of an open file."""
    return [TensorRow(t.name, t.type_name or "unknown", tuple(t.shape), t.bytes) for t in file.tensors]


def describe(
    path: str, metadata: Any, rows: list[TensorRow], threads: int | None = None, sidecar: bool = True
) -> dict[str, Any]:
    """The report as plain data, ready for JSON. Keys are absent where the file says nothing. `sidecar`: whether it counts."""
    report: dict[str, Any] = {
        "file": str(path),
        "file_bytes": _file_bytes(path),
        "name": _text(metadata, "general.name"),
        "architecture": _text(metadata, "general.architecture"),
        "kind": _kind(metadata, rows),
        "type": inspection.main_type(rows),
        "parameters": sum(row.count for row in rows),
        "shape": inspection.shape(metadata),
        "pictures": inspection.picture_costs(metadata, rows),
        "parts": inspection.totals(rows, "part"),
        "types": inspection.totals(rows, "type"),
        "vocabulary": inspection.vocabulary(metadata),
        "template": inspection.template_features(metadata.get("tokenizer.chat_template")),
        "decode_bytes": inspection.decode_bytes(metadata, rows),
    }
    report = {key: value for key, value in report.items() if value}
    if report.get("decode_bytes"):
        model = _open(path, threads, sidecar)
        try:
            report["memory"] = _memory(model, metadata, rows)
            report["grammar_bytes"] = _grammar_bytes(model)
            if model is not None and model.sidecar:
                lean = {"file": str(model.sidecar), "file_bytes": os.path.getsize(model.sidecar)}
                report["sidecar"] = {**lean, "decode_bytes": model.config.decode_bytes}
        finally:
            if model is not None:
                model.close()
    return report


def _kind(metadata: Any, rows: list[TensorRow]) -> str:
    """What the file is: "model" or another general.type, "encoders", "vocabulary" or "metadata"."""
    if metadata.get("general.architecture") == "clip" or metadata.get("general.type") == "mmproj":
        return "encoders"
    if not rows:
        return "vocabulary" if metadata.get("tokenizer.ggml.tokens") is not None else "metadata"
    return _text(metadata, "general.type") or "model"


def _text(metadata: Any, key: str) -> str | None:
    """A string of the metadata; None when it is absent or not a string."""
    value = metadata.get(key)
    return value if isinstance(value, str) else None


def _file_bytes(path: str) -> int:
    """Size of the file; of a split file the size of all parts."""
    if not (split := _SPLIT.search(path)):
        return os.path.getsize(path)
    stem, count = path[: split.start()], int(split[1])
    parts = (Path(f"{stem}-{i:05d}-of-{count:05d}.gguf") for i in range(1, count + 1))
    return sum(part.stat().st_size for part in parts if part.exists())


def _memory(model: Any, metadata: Any, rows: list[TensorRow]) -> list[dict[str, Any]]:
    """Cache and work space by context and cache type. The figures are the engine's if it could open the model."""
    limit = inspection.context_limit(metadata) or max(CONTEXTS)
    contexts = [*(context for context in CONTEXTS if context < limit), limit]
    # Of tables, such as that of the per-layer embeddings, only the rows of the current tokens are read.
    weights = (file_parts(rows) if model is None else model.weight_sizes())["weights"]
    result = []
    for context in contexts:
        for kv in ("f16", "q8"):
            if model is None:
                estimate = {"kv": inspection.kv_bytes(metadata, context, kv), "scratch": 0}
            else:
                estimate = model.estimate(context, kv)
                estimate["scratch"] += estimate.pop("workspace")
            total = weights + estimate["kv"] + estimate["scratch"]
            result.append({"context": context, "kv_type": kv, **estimate, "total": total})
    return result


def _grammar_bytes(model: Any) -> int:
    """What answers and calls of a given form take; 0 without llguidance, and for a file that the engine cannot run."""
    from ..chat.vocabulary import view_bytes

    return 0 if model is None else view_bytes(model.tokenizer)


def _open(path: str, threads: int | None, sidecar: bool) -> Any:
    """The file as a model; None if the engine cannot run it."""
    from .. import Model
    from ..errors import EdgeGemmaError

    try:
        return Model.load(path, threads=threads, sidecar=sidecar)
    except EdgeGemmaError:
        return None


def _template(metadata: Any, as_json: bool) -> dict[str, Any]:
    """The chat template. A file without one is an error, but for JSON, which has null."""
    from ..errors import EdgeGemmaError

    template = _text(metadata, "tokenizer.chat_template")
    if not template and not as_json:
        raise EdgeGemmaError("the file has no chat template.")
    return {"template": template}


def _plain(value: Any) -> Any:
    """A metadata value with lists instead of arrays, as JSON needs it."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    is_list = not isinstance(value, str) and hasattr(value, "__len__")
    return [_plain(item) for item in value] if is_list else value


# ---- text -------------------------------------------------------------------------------------------------------


def _print_report(report: dict[str, Any]) -> None:
    title = f"{report.get('name') or report['file']}"
    kinds = ", ".join(str(report[key]) for key in ("architecture", "kind", "type") if report.get(key))
    print(f"{title} ({kinds})")
    facts = [("file", f"{report['file']}, {format_bytes(report['file_bytes'])}")]
    if report.get("parameters"):
        facts.append(("parameters", format_count(report["parameters"])))
    if report.get("decode_bytes"):
        facts.append(("read per token", format_bytes(report["decode_bytes"])))
    if lean := report.get("sidecar"):
        text = (
            f"{lean['file']}, {format_bytes(lean['file_bytes'])}; read per token {format_bytes(lean['decode_bytes'])}"
        )
        facts.append(("sidecar", text))
    facts += _shape_lines(report.get("shape", {}))
    facts += _vocabulary_lines(report.get("vocabulary", {}))
    if report.get("vocabulary"):
        template = report.get("template")
        text = f"{template['characters']} characters: {', '.join(template['features'])}" if template else "none"
        facts.append(("chat template", text))
    width = max(len(label) for label, _ in facts)
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000
    for label, text in facts:
        lines = wrap(text, columns - width - 4) or [""]
        print(f"  {label.ljust(width)}  " + f"\n{' ' * (width + 4)}".join(lines))
    for group in ("part", "type"):
        if entries := report.get(group + "s"):
            _print_totals(group, entries)
    if report.get("pictures"):
        print("\npictures by budget (at most)")
        table = [
            (str(p["budget"]), str(p["patches"]), f"{p['multiply_adds'] / 1e9:,.1f} G") for p in report["pictures"]
        ]
        print_table([("soft tokens", "patches", "multiply-adds"), *table])
    if report.get("memory"):
        _print_memory(report["memory"], report["grammar_bytes"])
    if report.get("fits"):
        print_fits(report["fits"], typed_command())
    if "tensors" in report:
        print("\ntensors (fastest axis first)")
        print_rows = [(t["name"], t["type"], " x ".join(map(str, t["shape"]))) for t in report["tensors"]]
        widths = [max(len(row[i]) for row in print_rows) for i in range(2)] if print_rows else [0, 0]
        for name, kind, dims in print_rows:
            print(f"  {name.ljust(widths[0])}  {kind.ljust(widths[1])}  {dims}")
    if "metadata" in report:
        print("\nmetadata")
        for key, value in report["metadata"].items():
            print(f"  {key} = {_short(value)}")


def _shape_lines(shape: dict[str, Any]) -> list[tuple[str, str]]:
    if "layers" not in shape:
        lines = []
        for side, facts in shape.items():
            text = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items())
            lines.append((f"{side} encoder", text))
        return lines
    n = shape["layers"]
    text = str(n)
    if "global_layers" in shape:
        text += f": {n - len(shape['global_layers'])} local (window {shape.get('sliding_window')}), global: "
        text += " ".join(map(str, shape["global_layers"]))
    lines = [("layers", text)]
    if shape["kv_layers"] < n:
        lines.append(("K/V cache", f"layers 0-{shape['kv_layers'] - 1}; the other {n - shape['kv_layers']} share it"))
    lines.append(("hidden size", str(shape["hidden_size"])))
    kv, dim = (" / ".join(f"{v} {k}" for k, v in shape[key].items()) for key in ("kv_heads", "head_dim"))
    lines.append(("heads", f"{shape['heads']}; K/V heads {kv}; head width {dim}"))
    widths = [f"{run['width']} (x{run['layers']})" for run in shape.get("ffn", []) if run["width"]]
    if widths:
        lines.append(("ffn", ", ".join(widths)))
    if "experts" in shape:
        wide = f", {shape['expert_ffn']} wide" if "expert_ffn" in shape else ""
        lines.append(("experts", f"{shape['experts']}, {shape.get('experts_used', '?')} in use per token{wide}"))
    if "per_layer_input" in shape:
        lines.append(("per-layer input", str(shape["per_layer_input"])))
    if "context_length" in shape:
        lines.append(("context", f"{shape['context_length']} tokens"))
    return lines


def _vocabulary_lines(vocabulary: dict[str, Any]) -> list[tuple[str, str]]:
    if not vocabulary:
        return []
    kinds = ", ".join(f"{n} {kind}" for kind, n in vocabulary.get("types", {}).items())
    lines = [("vocabulary", f"{vocabulary['size']} tokens ({kinds})" if kinds else f"{vocabulary['size']} tokens")]
    special = [f"{entry['text']} {entry['id']}" for entry in vocabulary["special"].values()]
    return lines + ([("special tokens", "  ".join(special))] if special else [])


def _print_totals(group: str, entries: list[dict[str, Any]]) -> None:
    print(f"\nby {group}")
    header = [("", "tensors", "parameters", "bytes", "share")]
    print_table(
        header
        + [
            (
                entry[group],
                str(entry["tensors"]),
                format_count(entry["parameters"]),
                format_bytes(entry["bytes"]),
                f"{entry['share']:.1%}",
            )
            for entry in entries
        ]
    )


def _print_memory(entries: list[dict[str, Any]], grammar: int) -> None:
    print("\nmemory by context (total: cache, work space, and all weights but tables of embeddings)")
    rows: list[tuple[str, ...]] = [("", "K/V", "cache", "work space", "total")]
    for entry in entries:
        scratch = format_bytes(entry["scratch"]) if entry["scratch"] else "?"
        sizes = (format_bytes(entry["kv"]), scratch, format_bytes(entry["total"]))
        rows.append((f"{entry['context']} tokens", entry["kv_type"], *sizes))
    print_table(rows)
    if grammar:
        print(f"  answers of a given form, and calls of tools unless constrain=False: {format_bytes(grammar)} more")


def _short(value: Any) -> str:
    """A value on one line. Long arrays and strings are cut, and their length is shown."""
    if isinstance(value, list):
        shown = ", ".join(_short(item) for item in value[:6])
        return f"[{shown}{', ...' if len(value) > 6 else ''}] ({len(value)})" if len(value) > 6 else f"[{shown}]"
    if isinstance(value, str):
        text = repr(value)
        return text if len(text) <= 100 else f"{text[:96]}...' ({len(value)} characters)"
    return str(value)
