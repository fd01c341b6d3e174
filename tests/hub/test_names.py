"""Names of models as people write them, and what the command and Python do with them."""

from __future__ import annotations

import re

import pytest

import edge_gemma as eg
from edge_gemma.hub.cache import is_readable, pick, sort_out
from edge_gemma.hub.names import parse
from support.paths import ROOT

REPO = "unsloth/gemma-4-E2B-it-GGUF"


@pytest.mark.parametrize(
    ("text", "name", "quant", "revision", "file"),
    [
        ("e2b", "e2b", None, None, None),
        ("E4B:q8_0", "e4b", "q8_0", None, None),
        ("gemma4:e2b", "e2b", None, None, None),  # Ollama's names
        ("gemma4:26b-a4b-it-q4_K_M", "26b", "q4_K_M", None, None),
        ("gemma-4-E2B-it", "e2b", None, None, None),
        ("gemma-4-31b", "31b", None, None, None),
        (REPO, REPO, None, None, None),
        (f"{REPO}:Q5_K_M", REPO, "Q5_K_M", None, None),
        (f"{REPO}@v2", REPO, None, "v2", None),
        (f"{REPO}/sub/m-Q4_0.gguf", REPO, None, None, "sub/m-Q4_0.gguf"),
        (f"hf.co/{REPO}:Q4_0", REPO, "Q4_0", None, None),
        (f"hf.co/{REPO}:latest", REPO, None, None, None),
        (f"huggingface.co/{REPO}", REPO, None, None, None),
        (f"hf:{REPO}", REPO, None, None, None),
        (f"hf://{REPO}/m-Q4_0.gguf", REPO, None, None, "m-Q4_0.gguf"),
        (f"https://huggingface.co/{REPO}", REPO, None, None, None),
        (f"https://huggingface.co/{REPO}/", REPO, None, None, None),
        (f"https://huggingface.co/{REPO}/tree/main", REPO, None, "main", None),
        (f"http://www.huggingface.co/{REPO}/blob/main/m-Q4_0.gguf", REPO, None, "main", "m-Q4_0.gguf"),
        (f"https://hf.co/{REPO}/resolve/main/m%20x.gguf?download=true", REPO, None, "main", "m x.gguf"),
        (f"https://huggingface.co/{REPO}?show_file_info=m.gguf#x", REPO, None, None, None),
        (f"  {REPO} ", REPO, None, None, None),
        (f"https://huggingface.co/{REPO}/discussions/3", REPO, None, None, None),
        (f"{REPO}/tree/v2", REPO, None, "v2", None),
        ("ollama run gemma4:e4b-it-q8_0", "e4b", "q8_0", None, None),
        ("ollama pull gemma4:e2b", "e2b", None, None, None),
        (f"ollama run hf.co/{REPO}:Q8_0", REPO, "Q8_0", None, None),
        ("https://ollama.com/library/gemma4:e2b", "e2b", None, None, None),
    ],
)
def test_what_people_write(text, name, quant, revision, file):
    found = parse(text)
    assert found and (found.name, found.quant, found.revision, found.file) == (name, quant, revision, file)
    assert found.repositories == ((REPO,) if name == REPO else parse(name).repositories)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "llama",
            "e2bx",
            "./model",
            "a b/c",
            "hf.co/",
            "hf.co/owner",
            "https://huggingface.co/",
            "gemma4",
            "gemma4:latest",
        ),
        # paths
        *("/models/gemma/m.gguf", "/models/gemma", "~/m.gguf", "~/models/m.gguf", "../up/m.gguf", "models/gemma/"),
        *("models/gemma/m.bin", "models/gemma/e2b", r"C:\models\m.gguf", "C:/models/gemma/m.gguf"),
    ],
)
def test_what_is_no_name(text):
    assert parse(text) is None


@pytest.mark.parametrize("text", ["https://example.org/m.gguf", "ftp://x/y/z", "https://ollama.com/library/llama3"])
def test_addresses_of_other_places(text):
    with pytest.raises(eg.EdgeGemmaError, match="no address of the Hugging Face Hub"):
        parse(text)
    with pytest.raises(eg.EdgeGemmaError, match="no address of the Hugging Face Hub"):
        eg.Model.load(text)


def test_another_endpoint(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example:8443/")
    assert parse(f"https://mirror.example:8443/{REPO}").name == REPO


@pytest.mark.parametrize("path", ["/absent/folder/m.gguf", "absent/folder/m.bin", "~absent/folder/m.gguf"])
def test_paths_of_no_files_are_named_as_paths(path):
    with pytest.raises(OSError, match=r"cannot open the file"):
        eg.Model.load(path)


def test_an_address_without_a_repository():
    with pytest.raises(OSError, match=r"no model of that name: the names are e2b"):
        eg.Model.load("https://huggingface.co/owner")


def test_types_that_cannot_be_read():
    """The names in cache.py are those of types that the engine lacks, and of all of them."""
    names = re.search(r"ggml_names\[\] = \{(.*?)\};", (ROOT / "csrc" / "format" / "types.c").read_text(), re.DOTALL)[1]
    quantized = {name for name in re.findall(r'"(\w+)"', names) if not re.fullmatch(r"I\d+|F64|Q4_[23]", name)}
    own = {"QC2", "QC4", "QC8"}  # in files of `convert`
    assert {name for name in quantized if is_readable(name)} == set(eg.kernels.types) - own


@pytest.mark.parametrize(
    ("quant", "readable"),
    [
        *[
            (name, True)
            for name in ("Q4_K_M", "UD-Q4_K_XL", "IQ2_M", "IQ3_XS", "TQ1_0", "Q2_K_L", "MXFP4", "BF16", None)
        ],
        *[
            (name, False)
            for name in ("UD-IQ1_M", "NVFP4", "Q4_0_4_8", "IQ4_KS", "IQ2_K", "Q4_K_R4", "IQ4_KSS", "Q6_0", "FP8")
        ],
    ],
)
def test_files_that_cannot_be_read_are_not_chosen(quant, readable):
    models, _ = sort_out([f"gemma-4-31B-it-{quant}.gguf" if quant else "gemma-4-31B-it.gguf"])
    assert models[0].quant == quant and (pick(models) is not None) == readable
